"""The values of arguments, made of a few word pieces, in three splits without a common value."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Final, Literal

Split = Literal["train", "select", "report"]
Value = str | int

SPLITS: Final[tuple[Split, ...]] = ("train", "select", "report")


def _words(text: str) -> list[str]:
    return text.split()


_FIRST = _words("Ma To Le Ri Sa Be Ka No Da El Vi Jo An Pe Lu Ne Ta Mi Ro Fe Ha Zo Ol Iv Ga")
_LAST = _words("ra bin na ko lia dor mes ta rik sel vin lo nor bel dan mi ren sa vo lin der nik mo tes la")
_LAND = _words("Vel Tar Bor Kes Mon Lun Har Dol Fer Gal Nor Sil Pel Ros Tem")
_MID = _words("mo ri sa de lu na ti ko ve ba")
_TOWN = _words("ra burg sin ton dal via mar stad ford gen")
_BAND = _words("Blu Cro Dri Fla Gro Sno Pla Tri Sky Zen Neo Lux Rex Vox Max")
_SOUND = _words("beat wave line fox star moon jet lark pine dust bird reef bell club king")
_SOFT = _words("lo ma ri ku ta ne si po ga be du vi")
_STEM = _words("budget report plan draft photo invoice letter music recipe log essay map song test diary score")
_PART = _words("old new final may june home work trip team copy first last big small blue east")
_EXT = _words("txt pdf csv doc png zip")
_PROGRAM = _words("git make npm cargo docker python ssh curl tar backup deploy server cron kernel cache")
_TASK = _words("build push pull start stop clean sync reset purge check update status install report tests logs")
_TONE = _words("late early new open final big short weekly yearly team summer winter private second")
_TOPIC = _words("invoice meeting offer contract party trip report budget delivery question ticket plan salary visit")
_SIDE = _words("north south east west upper lower front back main side inner outer left right")
_PLACE = _words("garage gate cellar office barn shed lobby attic studio stable tower workshop vault garden")
_ROOM = _words("kitchen bedroom bath hall library lounge nursery pantry study den saloon closet parlor dormitory")
_MONTH = _words("January February March April May June July August September October November December")
_COLOR = _words("red blue green black white golden silver wooden metal paper glass heavy light plastic")
_THING = _words("lamp chair shirt bottle pen mug clock scarf table bag basket candle hammer spoon mirror kettle")
_ACCOUNT = _words("saver joint holiday family travel salary pension student rent repair")
_LANGUAGE = _words("French Spanish German Italian Greek Polish Danish Dutch Turkish Swedish Latin Welsh")
_CHORE = _words("fix buy wash call find pack bring sell paint check move return")
_GOAL = _words("bike bank tent boat plumber oven roof dentist fence piano wallet dog suitcase window")
_ZONE = _words("com org net")


def _person(rng: random.Random) -> str:
    if rng.random() < 0.8:
        return rng.choice(_FIRST) + rng.choice(_LAST)
    # Names of any letters teach copying itself, so that a name from outside this world is copied too.
    size = rng.choice((2, 3))
    return "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(size)).capitalize()


def _pair(first: list[str], second: list[str], between: str = " ") -> Callable[[random.Random], Value]:
    return lambda rng: rng.choice(first) + between + rng.choice(second)


def _whole(low: int, high: int) -> Callable[[random.Random], Value]:
    return lambda rng: rng.randint(low, high)


def _stem(rng: random.Random) -> str:
    return f"{rng.choice(_STEM)}_{rng.choice(_PART)}"


_MAKERS: Final[dict[str, Callable[[random.Random], Value]]] = {
    "person": _person,
    "amount": lambda rng: rng.randint(10, 99) if rng.random() < 0.4 else rng.randint(100, 4999),
    "account": lambda rng: f"{rng.choice(_ACCOUNT)} {rng.randint(10, 99)}",
    "file": lambda rng: f"{_stem(rng)}.{rng.choice(_EXT)}",
    "folder": _stem,
    "command": _pair(_PROGRAM, _TASK),
    "count": _whole(2, 99),
    "subject": _pair(_TONE, _TOPIC),
    "door": _pair(_SIDE, _PLACE),
    "room": _pair(_SIDE, _ROOM),
    "state": lambda rng: rng.choice(("on", "off")),
    "degrees": _whole(10, 99),
    "day": lambda rng: f"{rng.choice(_MONTH)} {rng.randint(1, 28)}",
    "title": _pair(_PART, _TOPIC),
    "item": _pair(_COLOR, _THING),
    "quantity": _whole(2, 99),
    "artist": lambda rng: rng.choice(_BAND) + rng.choice(_SOUND),
    "minutes": _whole(2, 120),
    "language": lambda rng: rng.choice(_LANGUAGE),
    "word": lambda rng: "".join(rng.choice(_SOFT) for _ in range(rng.choice((2, 3)))),
    "text": _pair(_CHORE, _GOAL, " the "),
    "city": lambda rng: rng.choice(_LAND) + rng.choice(_MID) + rng.choice(_TOWN),
    "page": lambda rng: f"{rng.choice(_SOFT)}{rng.choice(_SOUND)}.{rng.choice(_ZONE)}",
}

CLOSED: Final[frozenset[str]] = frozenset({"state", "language"})
"""Slots with so few values that every split uses them all."""

_CLASS_OF_SLOT: Final[dict[str, str]] = {"to": "person", "name": "person", "sender": "person"}


def split_of(kind: str, value: Value) -> Split:
    """The split that owns `value`: 16 of 20 hash buckets are train, two select, two report."""
    bucket = hashlib.blake2b(f"{kind}:{value}".encode(), digest_size=4).digest()
    number = int.from_bytes(bucket, "big") % 20
    return "train" if number < 16 else "select" if number < 18 else "report"


def draw(slot: str, split: Split, rng: random.Random) -> Value:
    """A value for `slot` that belongs to `split` (for a slot in `CLOSED`, any value)."""
    kind = _CLASS_OF_SLOT.get(slot, slot)
    while True:
        value = _MAKERS[kind](rng)
        if kind in CLOSED or split_of(kind, value) == split:
            return value
