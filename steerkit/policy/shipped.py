"""Policies that come with the package, by their names: `payments`, `functiongemma/guard`."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")


def shipped() -> list[str]:
    """Their names."""
    home = _folder()
    return sorted(path.relative_to(home).with_suffix("").as_posix() for path in home.rglob("*.yaml")) if home else []


def shipped_file(name: str | Path) -> Path:
    """The file of a policy that ships; of any other name or path the path itself."""
    home, text = _folder(), _said(name)
    file = home / f"{text}.yaml" if home and _NAME.fullmatch(text) else Path(name)
    return file if file.is_file() else Path(name)


def found(path: str | Path) -> Path:
    """The file that is meant: one that is there, else a policy that ships where the path is a name without suffix."""
    return Path(path) if Path(path).is_file() else shipped_file(path)


def meant(path: str | Path) -> str:
    """What to write instead of a name of no policy; empty for anything else."""
    name, known = _said(path), shipped()
    if not _NAME.fullmatch(name) or not known:
        return ""
    close = get_close_matches(name, known, n=1)
    return f", or one that ships: {', '.join(known)}" + (f"; did you mean '{close[0]}'?" if close else "")


def _said(path: str | Path) -> str:
    """As it was written: pathlib takes './payments' for 'payments'."""
    return path if isinstance(path, str) else path.as_posix()


def _folder() -> Path | None:
    """Where they are: inside an installed package, beside it in a checkout."""
    package = Path(str(files("steerkit")))
    places = (package / "_policies", package.parent / "policies")
    return next((place for place in places if (place / "schema.json").is_file()), None)
