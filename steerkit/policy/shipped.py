"""Policies that come with the package, by their names: `payments`, `functiongemma/guard`."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")


def shipped() -> list[str]:
    """Names of the policies that come with the package."""
    home = _folder()
    return sorted(path.relative_to(home).with_suffix("").as_posix() for path in home.rglob("*.yaml")) if home else []


def shipped_file(name: str | Path) -> Path:
    """The file of a policy that ships; any other name or path as it is."""
    home, text = _folder(), _written(name)
    file = home / f"{text}.yaml" if home and _NAME.fullmatch(text) else Path(name)
    return file if file.is_file() else Path(name)


def find_file(path: str | Path) -> Path:
    """The file at a path, or else the policy that ships under that name."""
    return Path(path) if Path(path).is_file() else shipped_file(path)


def suggestion(path: str | Path) -> str:
    """End of an error about a name that no policy has: the names there are, and the closest; empty for a path."""
    name, known = _written(path), shipped()
    if not _NAME.fullmatch(name) or not known:
        return ""
    close = get_close_matches(name, known, n=1)
    return f", or one that ships: {', '.join(known)}" + (f"; did you mean '{close[0]}'?" if close else "")


def _written(path: str | Path) -> str:
    """The path as it was written: pathlib makes 'payments' of './payments'."""
    return path if isinstance(path, str) else path.as_posix()


def _folder() -> Path | None:
    """Folder of the policies: inside an installed package, beside it in a checkout."""
    package = Path(str(files("steerkit")))
    places = (package / "_policies", package.parent / "policies")
    return next((place for place in places if (place / "schema.json").is_file()), None)
