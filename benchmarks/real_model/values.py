"""Values of generated conversations, in three splits that share no open-ended value and no wording."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias
from zlib import crc32

from fresh import FRAMES, FRESH, MADE, Value

Split: TypeAlias = Literal["tune", "choose", "report"]
"""`tune` for the weights, `choose` for features and policies, `report` for everything that is reported."""

SPLITS: Final[tuple[Split, ...]] = ("tune", "tune", "tune", "choose", "report")
HERE: Final = Path(__file__).parent
_LISTS: Final[Mapping[str, Mapping[str, Any]]] = tomllib.loads((HERE / "values.toml").read_text(encoding="utf-8"))


FRESHLY: Final = 0.65
"""Share of the tuning's open-ended values that are made anew rather than taken from a list."""


def listed(kind: str, split: Split) -> Sequence[str]:
    """The entries of a list of values.toml that a split may use; of a closed one all."""
    for section in ("closed", "open", "said"):
        found = _LISTS[section].get(kind)
        if found is not None:
            entries = found.split() if isinstance(found, str) else found
            return entries if section == "closed" else of_split(entries, split)
    raise KeyError(kind)


def of_split(entries: Sequence[str], split: Split) -> list[str]:
    """Every fourth of five entries for choosing, every fifth for reports, the others for tuning."""
    return [entry for number, entry in enumerate(entries) if SPLITS[number % 5] == split]


def is_open(kind: str) -> bool:
    """True if a kind's values are held out from the other splits."""
    base = kind.rstrip("2")
    return base in _LISTS["open"] or base in _OPEN or base in MADE


class Values:
    """Values drawn by kind. A kind that ends with 2 is a value of the same kind that differs from the last one."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng, self.split = rng, split
        self._last: dict[str, Any] = {}

    def draw(self, kind: str) -> Value:
        """A value of a kind.

        Raises:
            KeyError: no such kind.
        """
        base = kind.rstrip("2")
        found = self._one(base)
        while kind != base and found.value == self._last.get(base):
            found = self._one(base)
        self._last[kind] = found.value
        return found

    def text(self, template: str) -> str:
        """A template with a drawn value for each kind that it names."""
        return template.format_map(_Drawn(self))

    def pick(self, kind: str) -> str:
        """An entry of a list; for the tuning half of the framings are made anew."""
        if self.split == "tune" and kind in FRAMES and self.rng.random() < 0.5:
            return FRAMES[kind](self.rng)
        return self.rng.choice(listed(kind, self.split))

    def coined(self, least: int = 2, most: int = 3) -> str:
        """A word that nobody has read before; every word belongs to one split."""
        while True:
            word = "".join(self.rng.choices(listed("syllable", "tune"), k=self.rng.randint(least, most))) + self.pick(
                "coda"
            )
            if SPLITS[crc32(word.encode()) % 5] == self.split:
                return word

    def _one(self, kind: str) -> Value:
        made = _OPEN.get(kind) or _FREE.get(kind)
        if kind[0] == "=":
            found: Any = self.rng.choice(kind[1:].split("|"))
        elif kind in MADE or (self.split == "tune" and kind in FRESH and self.rng.random() < FRESHLY):
            found = (MADE.get(kind) or FRESH[kind])(self.rng)
        else:
            found = made(self) if made else self.pick(kind)
        return found if isinstance(found, Value) else Value(found, said(found, self.rng))


class _Drawn(dict[str, str]):
    """Kinds as they are asked for."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def __missing__(self, kind: str) -> str:
        return self._values.draw(kind).said


def said(value: Any, rng: random.Random) -> str:
    """A value as people say it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        words = [str(item) for item in value]
        if rng.random() < 0.25 and not isinstance(value[0], str):
            return f"[{', '.join(words)}]"
        return " and ".join((", ".join(words[:-1]), words[-1])) if rng.random() < 0.7 else ", ".join(words)
    return str(value)


def _name(v: Values) -> str:
    chance = v.rng.random()
    if chance < 0.12:
        return v.pick("company")
    first = v.pick("first") if v.rng.random() < 0.75 else v.coined().capitalize()
    return first if chance < 0.55 else f"{first} {v.coined(1).capitalize()}"


def _email(v: Values) -> str:
    first = v.pick("first").lower() if v.rng.random() < 0.6 else v.coined()
    host = v.rng.choice(["example.com", "mail.example.org", f"{v.coined(1, 2)}.example"])
    return f"{first}{v.rng.choice(['.' + v.coined(1), '', str(v.rng.randint(1, 99))])}@{host}"


def _file(v: Values) -> str:
    stem = v.pick("stem") if v.rng.random() < 0.6 else v.coined() + v.rng.choice(["", "_final", "_2", "-v3"])
    folder = v.pick("folder") + "/" if v.rng.random() < 0.3 else ""
    return f"{folder}{stem}.{v.rng.choice(['txt', 'pdf', 'docx', 'xlsx', 'csv', 'md', 'log', 'zip', 'jpg', 'py'])}"


def _amount(v: Values) -> float:
    r = v.rng
    if r.random() < 0.15:
        return r.randint(1100, 99999) / 100
    return r.choice([r.randint(5, 99), r.randint(100, 990), r.randint(10, 99) * 100, r.randint(20, 500)])


def _date(v: Values) -> Value:
    year, month, day = v.rng.randint(2023, 2026), v.rng.randint(1, 12), v.rng.randint(1, 28)
    written = f"{year}-{month:02d}-{day:02d}"
    name = listed("month", v.split)[month - 1]
    spoken = [written, f"{name} {day}, {year}", f"{day} {name} {year}"]
    return Value(written, v.rng.choice([written, *spoken]))


def _share(v: Values) -> Value:
    percent = v.rng.choice([v.rng.randint(1, 40), v.rng.randint(2, 30) / 2])
    return Value(round(percent / 100, 4), f"{percent:g}%")


def _years(rng: random.Random) -> Value:
    first = rng.randint(1900, 2010)
    last = first + rng.randint(2, 14)
    return Value([first, last], rng.choice([f"{first} to {last}", f"{first} and {last}", f"{first}-{last}"]))


def _several(kind: str) -> Callable[[Values], list[Any]]:
    def some(v: Values) -> list[Any]:
        return list(dict.fromkeys(v.draw(kind).value for _ in range(v.rng.randint(2, 4))))

    return some


def _ints(low: int, high: int, step: int = 1) -> Callable[[Values], int]:
    return lambda v: v.rng.randrange(low, high + 1, step)


def _number(v: Values) -> float:
    return v.rng.choice([v.rng.randint(2, 60), v.rng.randint(2, 500), v.rng.randint(11, 199) / 10])


_OPEN: Final[Mapping[str, Callable[[Values], Any]]] = {
    "name": _name,
    "email": _email,
    "file": _file,
    "password": lambda v: v.coined() + v.rng.choice(["-", "_", ""]) + str(v.rng.randint(10, 9999)),
    "sentence": lambda v: v.text(v.pick("sentence")),
    "fact": lambda v: v.text(v.pick("fact")),
    "companies": _several("company"),
    "products": _several("product"),
    "words": lambda v: v.rng.sample(listed("word", v.split), 3),
    "titles": lambda v: v.rng.sample(listed("title", v.split), 2),
}
"""Kinds of open-ended values beside the lists."""

_FREE: Final[Mapping[str, Callable[[Values], Any]]] = {
    "amount": _amount,
    "date": _date,
    "time": lambda v: f"{v.rng.randint(6, 22):02d}:{v.rng.choice(['00', '15', '30', '45'])}",
    "order": lambda v: v.rng.choice(["A", "ORD-", "", "B-", "INV-"]) + str(v.rng.randint(1000, 99999)),
    "number": _number,
    "numbers": lambda v: [v.rng.randint(1, 99) for _ in range(v.rng.randint(3, 6))],
    "share": _share,
    "fraction": lambda v: v.rng.randint(1, 19) / 20,
    "rate": lambda v: v.rng.choice([2, 3, 4, 4.5, 5, 6.25, 7, 3.75]),
    "bool": lambda v: v.rng.random() < 0.5,
    "yes": lambda v: True,
    "mostly": lambda v: v.rng.random() < 0.75,
    "years": lambda v: _years(v.rng),
    "count": _ints(2, 12),
    "small": _ints(2, 12),
    "whole": _ints(2, 60),
    "signed": _ints(-20, 20),
    "minutes": _ints(5, 90, 5),
    "percent": _ints(5, 100, 5),
    "degrees": _ints(-5, 35),
    "warm": _ints(15, 26),
    "speed": _ints(20, 160, 10),
    "year": _ints(1900, 2024),
    "hundreds": _ints(50, 2000, 50),
    "thousands": _ints(1000, 400000, 500),
    "money": _ints(40, 9000),
    "kilos": _ints(48, 110),
    "tall": _ints(150, 199),
}
"""Kinds whose values are in all splits."""
