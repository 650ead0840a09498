"""Many requests: read in the forms people have them, checked each by its number, and taken a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from typing import Any, Final, TypeAlias

from steerkit.engine import Sampling
from steerkit.errors import LoopError, PolicyError, SteerkitError
from steerkit.runtime.continuous import Arriving, Flow
from steerkit.runtime.keywords import refuse_unknown
from steerkit.runtime.request import SAMPLING, Prepared, Request, sampling_of
from steerkit.types import Turn

BATCH: Final = 32
"""Rows that are generated together. 400 requests of the box take 852 MiB so and 2,663 MiB at once (benchmarked on one
core, where 16 rows decode as fast as 128); of FunctionGemma's architecture a row of 1,000 tokens takes 110 MiB."""

_FIELDS: Final = (*(field.name for field in fields(Request)), *SAMPLING)

Requests: TypeAlias = "Iterable[Request | Mapping[str, Any]]"
Prepare = Callable[[Request], Prepared]
Make = Callable[[list[Prepared]], list[Turn]]


def prepared_each(requests: Requests, prepare: Prepare, *, keep: bool) -> list[Prepared | SteerkitError]:
    """Each request in the model's terms; where errors are kept, what is wrong with one in its place.

    Raises:
        LoopError: it is no list of requests.
        SteerkitError: what is wrong with one, which begins with its number.
    """
    if isinstance(requests, (Request, Mapping, str, bytes)) or not isinstance(requests, Iterable):
        raise LoopError(f"requests: got {type(requests).__name__}, expected a list of Request")
    found: list[Prepared | SteerkitError] = []
    for number, one in enumerate(requests):
        try:
            found.append(prepare(_request(one)))
        except SteerkitError as error:
            numbered = _numbered(error, number)
            if not keep:
                raise numbered from None
            found.append(numbered)
    return found


def made(rows: Sequence[Prepared | SteerkitError], make: Make, batch_size: int, *, keep: bool) -> list[Any]:
    """The turn of each, or its error; where errors are kept, that of a batch stands for each request in it."""
    found: list[Any] = [one if isinstance(one, SteerkitError) else None for one in rows]
    for numbers in _batches(rows, batch_size):
        some = [one for number in numbers if isinstance(one := rows[number], Prepared)]
        try:
            turns: Sequence[Turn | SteerkitError] = make(some)
        except SteerkitError as error:
            if not keep:
                raise
            turns = [error] * len(some)
        for number, turn in zip(numbers, turns, strict=True):
            found[number] = turn
    return found


def joined(rows: Sequence[Prepared | SteerkitError], flow_of: Callable[[Arriving], Flow], *, keep: bool) -> list[Any]:
    """The turn of each, or its error, of requests that join as soon as there is room for them."""
    good = {number: one for number, one in enumerate(rows) if isinstance(one, Prepared)}
    numbers, waiting, found = list(good), iter(good.values()), list[Any](rows)
    with closing(flow_of(lambda: next(waiting, None))) as flow:
        for place, news in (each for some in flow for each in some.items()):
            last = news[-1] if news else None
            if isinstance(last, SteerkitError) and not keep:
                raise _numbered(last, numbers[place])
            if isinstance(last, (Turn, SteerkitError)):
                found[numbers[place]] = last
    return found


def check_batch(batch_size: object, errors: object) -> None:
    """Raises LoopError for settings that a batch cannot have."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise LoopError(f"batch_size: got {batch_size!r}, expected a number of requests, at least 1")
    if errors not in ("raise", "return"):
        raise LoopError(f"errors: got {errors!r}, expected 'raise' or 'return'")


def _batches(rows: Sequence[Prepared | SteerkitError], size: int) -> Iterator[list[int]]:
    """Numbers of the good requests, so many rows at a time; one with a counterfactual takes two."""
    some: list[int] = []
    taken = 0
    for number, one in enumerate(rows):
        if isinstance(one, SteerkitError):
            continue
        takes = 1 if one.unsteered is None else 2
        if some and taken + takes > size:
            yield some
            some, taken = [], 0
        some.append(number)
        taken += takes
    if some:
        yield some


def _request(given: object) -> Request:
    """A request from a mapping of its fields, and of those of `Sampling`, as `run` takes them."""
    if isinstance(given, Request):
        return given
    if not isinstance(given, Mapping):
        raise LoopError(f"got {type(given).__name__}, expected a Request, or a mapping of its fields")
    refuse_unknown("Request", given, _FIELDS)
    if "messages" not in given:
        raise LoopError("Request: got no messages, expected a list of at least one {role, content}")
    own = {key: value for key, value in given.items() if key not in SAMPLING}
    sampled = {key: value for key, value in given.items() if key in SAMPLING}
    if sampled and "sampling" in own:
        raise LoopError(f"Request: got 'sampling' and '{next(iter(sampled))}' beside it, expected one or the other")
    if sampled:
        own["sampling"] = Sampling(**sampled)
    elif isinstance(own.get("sampling"), Mapping):
        own["sampling"] = sampling_of("Request.sampling", own["sampling"])
    return Request(**own)


def _numbered(error: SteerkitError, number: int) -> SteerkitError:
    """The error with the number of its request."""
    where = f"requests[{number}]: "
    if isinstance(error, PolicyError):
        return PolicyError([where + problem for problem in error.problems])
    error.args = (f"{where}{error}",)
    return error
