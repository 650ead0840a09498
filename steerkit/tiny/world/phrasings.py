"""Requests in words: lines of `phrasings.toml` expanded, framed and filled with values."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from steerkit.tiny.world.argument_values import Split, Value

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_SPACES = re.compile(r" +")


@cache
def table() -> dict[str, Any]:
    """The parsed `phrasings.toml`."""
    text = resources.files("steerkit.tiny.world").joinpath("phrasings.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def lines(key: str, split: Split) -> list[str]:
    """The lines of a dotted `key` (`get_weather`, `frame.openers`) in one split."""
    entry: Any = table()
    for part in key.split("."):
        entry = entry[part]
    found: list[str] = entry[split]
    return found


def slots(line: str) -> list[str]:
    """The names of the values that a line wants."""
    return _SLOT.findall(line)


def expand(line: str, rng: random.Random) -> str:
    """`line` with each `[a|b]` replaced by one of its choices, slots left as they are."""
    text = _CHOICE.sub(lambda found: rng.choice(found.group(1).split("|")), line)
    return _SPACES.sub(" ", text).strip().replace(" ,", ",")


def fill(line: str, values: Mapping[str, Value]) -> str:
    """`line` with each `{slot}` replaced by its value."""
    return _SLOT.sub(lambda found: str(values[found.group(1)]), line)


def attach(left: str, right: str) -> str:
    """Two pieces of a sentence, with a space between unless `right` begins with punctuation."""
    if not left or not right:
        return left + right
    return left + right if right[0] in ".,!?;" else f"{left} {right}"


def frame(core: str, split: Split, rng: random.Random) -> str:
    """`core` as a complete message: an opener, the core, a closer; most begin with a capital."""
    opened = attach(rng.choice(lines("frame.openers", split)), core)
    text = attach(opened, rng.choice(lines("frame.closers", split)))
    return text[0].upper() + text[1:] if rng.random() < 0.6 else text
