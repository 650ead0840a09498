"""The Hugging Face hub: a check within seconds that it answers, and its errors in one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote

from steerkit.files import shown

_PATIENCE: Final = 5.0
"""Timeout of a connection and of each read, in seconds."""


def why_unreachable(repo: str) -> str | None:
    """Reason why the hub cannot serve a repository now, in words; None if it answers.

    The hub's own library retries for a minute and more where nothing answers; this asks once. Errors of the repository
    itself, or of the user's rights, are left to the real request.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # exported without saying so

    if constants.HF_HUB_OFFLINE:
        return "offline mode is on (HF_HUB_OFFLINE)"
    address = f"{constants.ENDPOINT}/api/models/{quote(repo)}"
    try:
        answer = get_session().get(address, headers=build_hf_headers(), timeout=_PATIENCE)
    except Exception as error:  # whatever its HTTP library raises, and that library changes
        return f"{constants.ENDPOINT} does not answer ({shown(type(error).__name__)[1:-1]})"
    code = answer.status_code
    if code in (408, 429) or code >= 500:
        return f"{constants.ENDPOINT} answers with HTTP {code}{', too many requests' * (code == 429)}"
    return None


def why_refused(error: BaseException | None) -> str | None:
    """Reason why the hub refused a request, in words; None if the error is another one."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    for _ in range(8):  # the chain of causes
        if isinstance(error, GatedRepoError):
            return "the repository is gated; accept its terms on the hub and log in with `hf auth login`"
        if isinstance(error, RepositoryNotFoundError):
            return "no such repository on the hub (a private one needs `hf auth login`)"
        if isinstance(error, RevisionNotFoundError):
            return "no such revision on the hub"
        if isinstance(error, HfHubHTTPError):
            code = error.response.status_code
            log_in = "; log in with `hf auth login`, or set HF_TOKEN anew" * (code in (401, 403))
            return f"the hub answers with HTTP {code}{log_in}"
        error = error and (error.__cause__ or error.__context__)
    return None


def is_repository_id(name: str) -> bool:
    """True if a name can be that of a repository: `name` or `owner/name`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported without saying so

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Silence the library's hints and retries on standard error; the error has the reason."""
    from huggingface_hub.utils import logging as hints

    before = hints.get_verbosity()
    hints.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        hints.set_verbosity(before)
