"""Finds a set of SAEs by name, on disk or on the Hugging Face hub, and puts one there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError

from steerkit.errors import SaeError
from steerkit.files import shown
from steerkit.hub import is_repository_id, quiet_hub, why_refused, why_unreachable
from steerkit.labels import LABELS_FILE
from steerkit.sae.formats import FORMATS
from steerkit.sae.sae_set import STATISTICS_FILE, SaeSet, load_folders

_SIDE_FILES = (STATISTICS_FILE, LABELS_FILE)
_FILES = tuple(dict.fromkeys([*_SIDE_FILES, *(name for form in FORMATS.values() for name in form.FILES)]))
_NAME = re.compile(r"(?P<repo>[^/]+/[^/]+)(?:/(?P<inner>.+))?")


def load_set(source: str | Path, *, revision: str | None = None) -> SaeSet:
    """Load the SAEs of `source`: a folder, or a hub repository such as `mindchain/functiongemma-270m-sae`.

    Every format of `steerkit.sae.formats` is recognised. Of a repository that holds many SAEs, name the folder too:
    `google/gemma-scope-2-270m-it/attn_out/layer_5_width_16k_l0_small`; `*` stands for anything in it. The hub's own
    cache, token and offline mode apply; a second load needs no network.

    Raises:
        SaeError: nothing is there, the hub cannot be reached, or a file is not what it must be.
    """
    if Path(source).is_dir():
        return load_folders([Path(source)], str(source))
    return load_folders(pull(source, revision=revision), str(source))


def local_set(source: str) -> SaeSet | None:
    """The SAEs of `source` as `load_set` takes it, where this machine has them; nothing is fetched. Raises SaeError."""
    match = _NAME.fullmatch(source)
    try:
        if Path(source).is_dir():
            return load_folders([Path(source)], source)
        if match is None or ".." in source.split("/"):
            return None
        root = Path(snapshot_download(match["repo"], allow_patterns=[], local_files_only=True))
        folders = [path for path in sorted(root.glob(match["inner"] or ".")) if path.is_dir()]
    except (
        OSError,
        ValueError,
    ):  # a name that no folder can have; the hub's library says by such that nothing is there
        return None
    return load_folders(folders, source) if folders else None


def pull(source: str | Path, *, revision: str | None = None) -> list[Path]:
    """Fetch the SAEs of a hub repository, and nothing else in it, into the hub's cache; the folders they lie in.

    What was fetched before is not fetched again, and a download that broke off resumes where it stopped.

    Raises:
        SaeError: there is no such repository, folder or revision, or the hub cannot be reached.
    """
    name = str(source)
    match = _NAME.fullmatch(name)
    if isinstance(source, Path) or name.startswith((".", "/", "~")):
        raise SaeError(f"{name}: no such folder; expected a folder with SAEs, or a hub repository id")
    if match is None or ".." in name.split("/"):
        raise SaeError(f"{name}: neither a folder nor a hub repository id (owner/name)")
    inner = match["inner"] or ""
    with _said_plainly(name, match["repo"], "the SAEs could not be fetched from the hub") as away:
        patterns, cached = _patterns(inner), away is not None
        root = Path(
            snapshot_download(match["repo"], revision=revision, allow_patterns=patterns, local_files_only=cached)
        )
    found = [path for path in sorted(root.glob(inner)) if path.is_dir()] if inner else [root]
    if not found:
        raise SaeError(f"{name}: the repository has no SAEs in such a folder; look at its files on the hub")
    return found


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Put a set on the hub, in one commit: its SAEs, statistics, labels and README; the commit's address.

    The set is read first, so that nothing broken is published. The hub's own token applies.

    Raises:
        SaeError: the folder holds no good set, or the hub refuses.
    """
    load_folders([folder], str(folder))
    what = "the SAEs could not be put on the hub"
    with _said_plainly(repo, repo, what) as away:
        if away is not None:
            raise SaeError(f"{repo}: {what}: {away}; try again later")
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        patterns = [pattern for name in (*_FILES, "README.md") for pattern in (name, f"*/{name}")]
        done = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=patterns, commit_message="Put the SAEs of steerkit here"
        )
    return str(done.commit_url)


def _patterns(inner: str) -> list[str]:
    """Patterns of files to fetch; without a folder, files at the top and in `layer…` folders."""
    if inner:
        return [f"{inner}/{name}" for name in _FILES] + [f"{inner}/layer*/{name}" for name in _FILES]
    return [*_FILES, *(f"layer*/{name}" for name in _FILES)]


@contextmanager
def _said_plainly(name: str, repo: str, what: str) -> Iterator[str | None]:
    """The hub's errors in one line, and none of its library's hints beside it; yields why it cannot be asked, if so."""
    away = None
    try:
        with quiet_hub():
            away = why_unreachable(repo) if is_repository_id(repo) else None
            yield away
    except HFValidationError:
        raise SaeError(f"{name}: neither a folder nor a hub repository id (owner/name)") from None
    except SaeError:
        raise
    except Exception as error:  # the hub's library lets through what its HTTP and JSON libraries raise
        reason = shown(error, 200) if isinstance(error, OSError) else f"the connection broke ({type(error).__name__})"
        if away is not None:
            reason = f"{away}, and the cache has no such SAEs; try again later"
        raise SaeError(f"{name}: {what}: {why_refused(error) or reason}") from None
