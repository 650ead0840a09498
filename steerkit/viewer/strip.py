"""The tokens of a turn, one after the other: where each came from, and how high a feature was at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from steerkit.audit import TurnRecord, values_of
from steerkit.report import Bound, shade
from steerkit.types import Place, Span, Trace
from steerkit.viewer.vocabulary import Vocabulary

_SOURCES: Final = (
    ("tool_result", "tool", "Tool result"),
    ("declaration", "declaration", "Tools"),
    ("developer", "developer", "Developer"),
    ("user", "user", "User"),
)
"""Places of a prompt whose text is somebody's, with how they are shaded and called; the first that fits counts."""
_FRAME: Final = ("frame", "Frame")
_REPLY: Final = ("model", "Reply")


class Token(NamedTuple):
    """A token in the strip."""

    position: int
    text: str
    style: str
    """CSS classes: its shade, and what is special about it."""
    title: str
    """All that is known of it in a line."""


class Stretch(NamedTuple):
    """Tokens that came from one source."""

    source: str
    title: str
    tokens: list[Token]


class Line(NamedTuple):
    """A bound, where it is drawn."""

    y: float
    text: str


class Figure(NamedTuple):
    """A feature over a turn's tokens, as coordinates."""

    width: int
    """One unit per token."""
    height: int
    path: str
    """Of SVG."""
    lines: list[Line]
    zero: float
    reply: int
    """First token of the reply."""
    label: str


HEIGHT: Final = 64


class Strip(NamedTuple):
    """The tokens of a turn."""

    stretches: list[Stretch]
    figure: Figure | None
    """None where no feature is shown."""


def strip_of(
    turn: TurnRecord, trace: Trace | None, vocabulary: Vocabulary | None, feature: str, bounds: Sequence[Bound]
) -> Strip:
    """The strip of a turn.

    Args:
        turn: whose prompt and reply are on record.
        trace: None where there is none.
        vocabulary: None leaves the ids of tokens in the place of their texts.
        feature: as `values_of` takes it; empty for none.
        bounds: of rules on it.
    """
    ids = (*turn.prompt_ids, *turn.reply_ids)
    read = values_of(trace, feature) if trace is not None and feature else {}
    values = {at: value for at, value in read.items() if at < len(ids)}
    high = max((abs(value) for value in values.values()), default=0.0)
    texts = [f"⟨{id}⟩" for id in ids] if vocabulary is None else vocabulary.texts(ids)
    styles = _styles(turn, trace, vocabulary, ids)
    sources = _sources(len(turn.prompt_ids), len(ids), trace)
    above = [bound.value for bound in bounds if bound.word == "above"]
    tokens = [_token(at, text, styles.get(at, ()), values.get(at), high, above) for at, text in enumerate(texts)]
    runs = groupby(range(len(ids)), key=sources.__getitem__)
    stretches = [Stretch(*source, [tokens[at] for at in run]) for source, run in runs]
    figure = _figure(values, len(ids), len(turn.prompt_ids), feature, bounds) if values else None
    return Strip(stretches, figure)


def _token(
    at: int, text: str, styles: Iterable[str], value: float | None, high: float, above: Sequence[float]
) -> Token:
    marks = list(styles)
    title = [f"token {at}", *marks]
    if value is not None:
        title.insert(1, f"{value:.4g}")
        marks.append(shade(abs(value), high))
        marks += ["below-zero"] if value < 0 else []
        marks += ["over"] if any(value > bound for bound in above) else []
    return Token(at, text, " ".join(marks), ", ".join(title))


def _styles(
    turn: TurnRecord, trace: Trace | None, vocabulary: Vocabulary | None, ids: Sequence[int]
) -> dict[int, list[str]]:
    """What is special about tokens: control tokens, forced or masked by a grammar, edited by steering."""
    found: dict[int, list[str]] = {}

    def mark(positions: Iterable[int], word: str) -> None:
        for at in positions:
            found.setdefault(at, []).append(word)

    if vocabulary is not None:
        mark((at for at, id in enumerate(ids) if id in vocabulary.control), "control")
    forced = turn.constrained.forced if turn.constrained else trace.forced if trace else ()
    mark(dict.fromkeys(_positions(forced, len(ids))), "forced")
    mark(turn.constrained.masked if turn.constrained else (), "masked")
    mark(dict.fromkeys(at for edit in turn.edits for at in edit.positions), "edited")
    return found


def _positions(spans: Iterable[Span], count: int) -> Iterator[int]:
    """Positions in spans; a hostile record may name any."""
    for span in spans:
        yield from range(max(0, span.start), min(span.end, count))


def _sources(prompt: int, count: int, trace: Trace | None) -> list[tuple[str, str]]:
    """Where each token came from."""
    found = [_FRAME] * prompt + [_REPLY] * (count - prompt)
    places: Mapping[Place, tuple[Span, ...]] = {} if trace is None else trace.places
    for place, source, title in reversed(_SOURCES):
        for at in _positions(places.get(place, ()), prompt):
            found[at] = (source, title)
    return found


def _figure(values: Mapping[int, float], count: int, reply: int, feature: str, bounds: Sequence[Bound]) -> Figure:
    reach = [*values.values(), *(bound.value for bound in bounds), 0.0]
    low, high = min(reach), max(reach)
    unit = (HEIGHT - 8) / (high - low or 1.0)

    def y(value: float) -> float:
        return round(HEIGHT - 4 - (value - low) * unit, 1)

    bars = "".join(f"M{at}.5 {y(0.0)}V{y(value)}" for at, value in sorted(values.items()) if value)
    lines = [Line(y(bound.value), f"{bound.does} {bound.word} {bound.value:.3g}") for bound in bounds]
    label = f"{feature} over {count} tokens, from {min(values.values()):.3g} to {max(values.values()):.3g}"
    return Figure(count, HEIGHT, bars, lines, y(0.0), reply, label)
