"""Functions that nobody wrote, for the tuning alone: frames of invented.toml, with nouns and parameters drawn."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from catalogue import Entry, Parameter
from fresh import word
from values import HERE


class Slot(NamedTuple):
    """A parameter as invented.toml writes it."""

    names: Sequence[str]
    type: str
    says: Sequence[str]
    kind: str
    fragments: Sequence[str]


def family(rng: random.Random) -> list[Entry]:
    """Two to five functions of one frame, near to each other: a request for one is none for another."""
    frames, computes = _frames()
    if rng.random() < 0.36:
        frame = rng.choice(computes)
        return [_computed(frame, noun, rng) for noun in rng.sample(frame["results"], rng.randint(2, 5))]
    frame = rng.choice(frames)
    return [_framed(frame, noun, rng) for noun in rng.sample(frame["nouns"], rng.randint(2, 5))]


def _framed(frame: Mapping[str, Any], noun: str, rng: random.Random) -> Entry:
    """A function about a noun: the frame's own parameters, and some others that a request may name."""
    extras = _some(frame["extras"], rng, rng.choice([0, 1, 1, 2, 2, 3]))
    fixed = {slot.names[0]: slot for slot in frame["parameters"]}
    names = _named([*fixed.values(), *extras], noun, rng)
    keys = dict(zip(fixed, names, strict=False))
    asks = []
    for ask in rng.sample(frame["asks"], 4):
        ask = ask.replace("{n}", "{noun}")  # a parameter may be called n
        for placeholder, key in keys.items():
            ask = ask.replace(f"{{{placeholder}}}", f"{{{key}}}")
        asks.append(_with(ask, list(zip(names[len(fixed) :], extras, strict=True)), noun, rng))
    slots = [*fixed.values(), *extras]
    return _entry(_spelt(rng.choice(frame["names"]), noun, rng), frame["says"], noun, names, slots, asks, rng)


def _computed(frame: Mapping[str, Any], noun: str, rng: random.Random) -> Entry:
    """A function that computes a result from quantities."""
    slots = rng.sample(frame["quantities"], rng.choice([1, 2, 2, 3, 3, 4]))
    extras = _some(frame["extras"], rng, rng.choice([0, 0, 1, 1, 2]))
    names = _named([*slots, *extras], noun, rng)
    of = rng.choice(frame["of"])
    asks = []
    for ask in rng.sample(_read()["computed"]["asks"], 4):
        ask = re.sub(r" +(?=[ ,.:?]|$)", "", ask.replace("{n}", "{noun}").replace("{of}", of))
        ask = ask.replace("{given}", _given(names, slots, rng))
        asks.append(_with(ask, list(zip(names[len(slots) :], extras, strict=True)), noun, rng))
    says = [re.sub(r" +(?=[ .]|$)", "", text.replace("{of}", of)) for text in _read()["computed"]["says"]]
    name = _spelt(rng.choice(_read()["computed"]["names"]), noun, rng)
    return _entry(name, says, noun, names, [*slots, *extras], asks, rng)


def _entry(
    name: str,
    says: Sequence[str],
    noun: str,
    names: Sequence[str],
    slots: Sequence[Slot],
    asks: list[str],
    rng: random.Random,
) -> Entry:
    parameters = {}
    for key, slot in zip(names, slots, strict=True):
        kind, optional = slot.type.removesuffix("?"), slot.type.endswith("?")
        drawn = slot.kind if slot.kind != "=" else f"={kind.replace('/', '|')}"
        parameters[key] = Parameter(kind.replace("/", "|"), rng.choice(slot.says).replace("{n}", noun), drawn, optional)
    return Entry(
        [name],
        [text.replace("{n}", noun) for text in says],
        parameters,
        asks,
        held=0,
        alike=frozenset([f"invented {noun}"]),
    )


def _with(ask: str, extras: Sequence[tuple[str, Slot]], noun: str, rng: random.Random) -> str:
    """A wording with what it says of other parameters; in brackets what may be left out."""
    before, behind = "", ""
    for key, slot in rng.sample(extras, len(extras)):
        text = rng.choice(slot.fragments)
        front = text.startswith("<")
        text = text.lstrip("<").strip()
        text = text if slot.kind != "yes" else f"{{x?{text}:}}"
        text = text.replace("{x}", f"{{{key}}}").replace("{x?", f"{{{key}?")
        text = f"{text} " if front else text if "," in (text[0], text[len(key) + 2 : len(key) + 3]) else f" {text}"
        text = f"[{text}]" if slot.type.endswith("?") else text
        before, behind = (before + text, behind) if front else (before, behind + text)
    end = ask[-1] if ask[-1] in "?." else ""
    return ask.removesuffix(end).replace("{noun}", before + noun, 1).replace("{noun}", noun) + behind + end


def _given(names: Sequence[str], slots: Sequence[Slot], rng: random.Random) -> str:
    """Quantities as a request lists them, in any order; what may be left out in brackets at the end."""
    style = rng.choice(_read()["computed"]["given"])
    pairs = list(zip(names, slots, strict=False))
    rng.shuffle(pairs)
    wanted = [pair for pair in pairs if not pair[1].type.endswith("?")] or pairs[:1]

    def told(key: str, slot: Slot) -> str:
        unit = slot.fragments[0].strip()
        value = f"{{{key}}} {unit}".strip() if unit and rng.random() < 0.8 else f"{{{key}}}"
        label = key.replace("_", " ") if len(key) > 2 else slot.names[0].replace("_", " ")
        made = style.replace("{l}", label).replace("{k}", key).replace("{x}", value)
        return re.sub(r"^a (?=[aeio])", "an ", made)

    words = [told(*pair) for pair in wanted]
    joined = ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]
    return joined + "".join(f"[, {told(*pair)}]" for pair in pairs if pair not in wanted)


def _named(slots: Sequence[Slot], noun: str, rng: random.Random) -> list[str]:
    """A name for each parameter, no two alike."""
    found: list[str] = []
    for slot in slots:
        names = [name.replace("{n}", re.sub(r"\W", "_", noun.lower())) for name in slot.names]
        left = [name for name in names if name not in found] or [f"{names[0]}_{len(found)}"]
        found.append(rng.choice([left[0], rng.choice(left)]))
    return found


def _some(slots: Sequence[Slot], rng: random.Random, count: int) -> list[Slot]:
    """Some parameters, now and then one of any function's among them."""
    found = rng.sample(slots, min(count, len(slots)))
    return [_any(rng), *found[1:]] if rng.random() < 0.4 else found


def _any(rng: random.Random) -> Slot:
    """A parameter named by words, as any function might have it."""
    text = rng.choice(_read()["extras"]["any"])
    for letter, kind in (("a", "noun"), ("b", "noun"), ("c", "noun"), ("j", "adjective")):
        text = text.replace(f"{{{letter}}}", word(rng, kind))
    return _slot(text)


def _spelt(pattern: str, noun: str, rng: random.Random) -> str:
    """A function's name in snake case, now and then in camel case."""
    name = pattern.replace("{n}", re.sub(r"\W+", "_", noun.lower()))
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name) if rng.random() < 0.12 else name


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads((HERE / "invented.toml").read_text(encoding="utf-8"))


@cache
def _frames() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    read = _read()
    frames = [
        {
            "nouns": _list(one["nouns"]),
            "names": one["names"].split("|"),
            "says": one["says"].split("|"),
            "asks": one["asks"].strip().splitlines(),
            "parameters": [_slot(text) for text in one["parameters"]],
            "extras": [_slot(text) for text in one["extras"]],
        }
        for one in read["frame"]
    ]
    extras = [_slot(text) for text in read["extras"]["compute"]]
    computes = [
        {
            "results": _list(one["results"]),
            "of": one["of"].split("|"),
            "quantities": [_quantity(text) for text in one["quantities"].strip().splitlines()],
            "extras": extras,
        }
        for one in read["compute"]
    ]
    return frames, computes


def _list(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split(",")]


def _quantity(text: str) -> Slot:
    names, says, kind, drawn, unit = (part.strip() for part in text.split(";"))
    return Slot(names.split("|"), kind, [says], drawn, [unit])


def _slot(text: str) -> Slot:
    names, kind, says, drawn, *fragments = (part.strip() for part in text.split(";"))
    return Slot(names.split("|"), kind, says.split("|"), drawn, fragments[0].split("|") if fragments else [])
