"""Conversations that are copies of each other: which they are, and how statistics count them once.

Rows that were copied, or made from one another, say no more than one of them does. A split that puts them on both sides
measures what was learnt by heart, and a test that counts them all finds what is not there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

NEAR: Final = 0.9
"""Least share of the longer text's pieces that the other has as well, in two near-copies."""
CONTAINED: Final = 0.95
"""Share of the shorter text's pieces, where it is at least half as long: a text with something before or after it."""
ALIKE: Final = 0.7
"""Share of the longer text's pieces from which on two texts may come from one template."""

_PIECE: Final = 4  # letters
_SKETCH: Final = 2_048
_MOST: Final = 4_000  # letters at each end of a text that are compared
_WORDS: Final = re.compile(r"[^\W\d_]+")
_NAMELESS: Final = frozenset({"role", "type", "id", "tool_call_id"})  # keys whose values nobody said


def said(messages: Sequence[Mapping[str, Any]]) -> str:
    """The words of a conversation for comparing near-copies, without case, digits and punctuation.

    What the developer says is left out, as all conversations of a product share it. A conversation without words is
    compared as it stands.
    """
    texts = [text for message in messages if not _framing(message) for text in _texts(message)]
    words = " ".join(_WORDS.findall(" ".join(texts).casefold()))
    found = words or " ".join(" ".join(texts).split())
    return found if len(found) <= 2 * _MOST else f"{found[:_MOST]} {found[-_MOST:]}"


def _framing(message: Mapping[str, Any]) -> bool:
    return message.get("role") in ("developer", "system")


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for key, one in value.items() if key not in _NAMELESS for text in _texts(one)]
    if isinstance(value, (list, tuple)):
        return [text for one in value for text in _texts(one)]
    return [] if value is None else [str(value)]


class Copies(NamedTuple):
    """Copies among conversations."""

    groups: tuple[int, ...]
    """Group of each conversation, numbered from 0 in the order of their first members."""
    alike: int
    """Conversations that are much like one of another group: perhaps made from one template."""


def copies_of(
    keys: Sequence[Sequence[Hashable]], texts: Sequence[str], named: Sequence[str | None] | None = None
) -> Copies:
    """The groups of copies among conversations.

    Args:
        keys: of each conversation; those that share a key are of one group.
        texts: what was `said` in each, by which near-copies are of one group; empty for one that is not compared.
        named: the group that its row names; near-copies of which both have a name are left to what their names say.
    """
    parents, alike = list(range(len(keys))), list[tuple[int, int]]()
    names = [None] * len(keys) if named is None else named

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = row = parents[parents[row]]
        return row

    first: dict[Hashable, int] = {}
    for row, (some, name, text) in enumerate(zip(keys, names, texts, strict=True)):
        own = [("named", name)] if name is not None else [("said", text)] if text else []
        for key in (*(("key", one) for one in some), *own):
            parents[root(row)] = root(first.setdefault(key, row))
    for one, other, near in _pairs(texts, names):
        if near:
            parents[root(one)] = root(other)
        else:
            alike.append((one, other))
    numbers: dict[int, int] = {}
    groups = tuple(numbers.setdefault(root(row), len(numbers)) for row in range(len(keys)))
    return Copies(groups, len({row for pair in alike if groups[pair[0]] != groups[pair[1]] for row in pair}))


def _pairs(texts: Sequence[str], named: Sequence[str | None]) -> Iterator[tuple[int, int, bool]]:
    """Pairs of rows whose texts are alike, and whether they are near-copies.

    How many pieces two texts share is first estimated by a product of short sketches (Charikar, Chen and Farach-Colton
    2002), whose error is about 2 % of their lengths, and counted where that comes near.
    """
    distinct: dict[tuple[str, bool], int] = {}
    for row, (text, name) in enumerate(zip(texts, named, strict=True)):
        if text:
            distinct.setdefault((text, name is not None), row)
    rows = list(distinct.values())
    pieces = [{f" {texts[row]} "[n : n + _PIECE] for n in range(max(1, len(texts[row]) - 1))} for row in rows]
    sketches = torch.zeros(len(rows), _SKETCH)
    for sketch, some in zip(sketches, pieces, strict=True):
        hashes = torch.tensor([crc32(piece.encode()) for piece in some])
        sketch.index_add_(0, hashes % _SKETCH, (hashes // _SKETCH % 2 * 2 - 1).float())
    lengths = torch.tensor([float(len(some)) for some in pieces])
    for start in range(0, len(rows), _SKETCH):
        own = slice(start, start + _SKETCH)
        shared = sketches[own] @ sketches.T
        longer, shorter = torch.maximum(lengths[own, None], lengths), torch.minimum(lengths[own, None], lengths)
        hopeful = (shared >= ALIKE * longer) | ((shared >= (CONTAINED - 0.15) * shorter) & (2 * shorter >= longer))
        for one, other in hopeful.triu(start + 1).nonzero().tolist():
            pair = rows[start + one], rows[other]
            if named[pair[0]] is None or named[pair[1]] is None:
                near = _alike(pieces[start + one], pieces[other])
                if near or float(shared[one, other]) >= ALIKE * float(longer[one, other]):
                    yield *pair, near


def _alike(one: set[str], other: set[str]) -> bool:
    shared, (short, long) = len(one & other), sorted((len(one), len(other)))
    return shared >= NEAR * long or (2 * short >= long and shared >= CONTAINED * short)


def weights_of(groups: Sequence[Hashable], positive: Tensor) -> Tensor:
    """`(n,)` float64 by which the rows of a group count 1 together in each of the two sets."""
    pairs = list(zip(groups, positive.tolist(), strict=True))
    sizes = Counter(pairs)
    return torch.tensor([1 / sizes[pair] for pair in pairs], dtype=torch.float64)


def dealt(groups: Sequence[Hashable], positive: Tensor, parts: int, seed: int) -> Tensor:
    """`(n,)` the part of each row, from 0: groups undivided, each set spread evenly, by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    part: dict[Hashable, int] = {}
    for value in (True, False):
        own = (group for group, one in zip(groups, positive.tolist(), strict=True) if one == value)
        unique = [group for group in dict.fromkeys(own) if group not in part]
        for number, place in enumerate(torch.randperm(len(unique), generator=generator).tolist()):
            part[unique[place]] = number % parts
    return torch.tensor([part[group] for group in groups], dtype=torch.long)
