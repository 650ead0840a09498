"""The extra `lab`: scipy and scikit-learn, which probes and bounds are computed with."""

from __future__ import annotations

from importlib.util import find_spec

from steerkit.errors import MissingExtraError


def check_extra(what: str) -> None:
    """Raise MissingExtraError, before any work is done, where scipy or scikit-learn is not installed.

    Args:
        what: the feature that needs them, as the error names it.
    """
    if not all(map(find_spec, ("scipy", "sklearn"))):
        raise MissingExtraError.of(what, "lab")
