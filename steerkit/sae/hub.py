"""Finds a set of SAEs by name: a folder on disk, or a repository on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from steerkit.errors import SaeError
from steerkit.sae.suite import LABELS_FILE, STATISTICS_FILE, SaeSet, load_folder

_FILES = ["sae_layer_*.pt", STATISTICS_FILE, LABELS_FILE]


def load_set(source: str | Path, *, revision: str | None = None) -> SaeSet:
    """Load the SAEs of `source`: a folder, or a hub repository such as `mindchain/functiongemma-270m-sae`.

    The hub's own cache, token and offline mode apply; a second load needs no network.

    Raises:
        SaeError: nothing is there, the hub cannot be reached, or a file is not what it must be.
    """
    if Path(source).is_dir():
        return load_folder(Path(source))
    name = str(source)
    if isinstance(source, Path) or name.startswith((".", "/", "~")):
        raise SaeError(f"{name}: no such folder; expected a folder with sae_layer_NN.pt files, or a hub repository id")
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=_FILES)
    except HFValidationError:
        raise SaeError(f"{name}: neither a folder nor a hub repository id (owner/name)") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SaeError(f"{name}: the SAEs could not be fetched from the hub: {reason}") from None
    return load_folder(Path(folder), name)
