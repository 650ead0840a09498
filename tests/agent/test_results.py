"""Whatever a tool returns is told as JSON: a table of kinds, and what cannot be told is no error."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import json
import pathlib
import time
import types
import uuid
from collections import OrderedDict, UserDict, deque
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import attrs
import numpy as np
import pandas as pd
import pyarrow as pa
import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerkit.agent.results import MAX_ERROR, error_text, fitted
from steerkit.agent.tool_runner import Limits, Ran, arun_tool, run_tool
from tests.agent.scripted import END, Script, calling, declared, user

DAY = datetime.date(2026, 1, 31)
NAN = float("nan")


class Colour(enum.StrEnum):
    """Text by another name."""

    RED = "red"


class Level(enum.Enum):
    """A name for a number."""

    HIGH = 3


class Balance(pydantic.BaseModel):
    """A model with a nested value that JSON does not know."""

    dollars: decimal.Decimal
    day: datetime.date | None = None
    secret: pydantic.SecretStr = pydantic.SecretStr("hidden")


class Loose(pydantic.BaseModel, arbitrary_types_allowed=True):
    """A model that cannot write itself."""

    table: np.ndarray


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: Any
    y: Any = 2


@attrs.define
class Mark:
    """An attrs class."""

    x: int


class Pair(NamedTuple):
    """A named tuple."""

    a: int
    b: int


FRAME = pd.DataFrame({"day": [pd.Timestamp(DAY), pd.NaT], "n": [1, 2], "x": [0.5, NAN]})
TWICE = pd.DataFrame([[1, 2]], columns=["a", "a"])

KINDS: dict[str, tuple[Any, Any]] = {
    "mapping": ({"a": (1, 2.5, None)}, {"a": [1, 2.5, None]}),
    "nothing": (None, {"value": None}),
    "text": ("text", {"value": "text"}),
    "text like an object": ('{"a": 1}', {"value": '{"a": 1}'}),
    "pydantic": (
        Balance(dollars=decimal.Decimal("1.10"), day=DAY),
        {"dollars": "1.10", "day": "2026-01-31", "secret": "**********"},
    ),
    "pydantic inside": (
        [Balance(dollars=decimal.Decimal(2))],
        {"value": [{"dollars": "2", "day": None, "secret": "*" * 10}]},
    ),
    "pydantic of arrays": (Loose(table=np.eye(2)), {"table": [[1.0, 0.0], [0.0, 1.0]]}),
    "pydantic root": (pydantic.RootModel[list[int]]([1]), {"value": [1]}),
    "dataclass": (Point(DAY, Point(1)), {"x": "2026-01-31", "y": {"x": 1, "y": 2}}),
    "attrs": (Mark(1), {"x": 1}),
    "namespace": (types.SimpleNamespace(a=DAY), {"a": "2026-01-31"}),
    "named tuple": (Pair(1, 2), {"value": [1, 2]}),
    "ordered": (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "user's mapping": (UserDict(a=DAY), {"a": "2026-01-31"}),
    "read-only mapping": (types.MappingProxyType({"a": 1}), {"a": 1}),
    "date": (DAY, {"value": "2026-01-31"}),
    "datetime": (datetime.datetime(2026, 1, 31, 9, tzinfo=datetime.UTC), {"value": "2026-01-31T09:00:00Z"}),
    "time": (datetime.time(9), {"value": "09:00:00"}),
    "timedelta": (datetime.timedelta(hours=2), {"value": "PT2H"}),
    "decimal": (decimal.Decimal("19.99"), {"value": "19.99"}),
    "decimal NaN": (decimal.Decimal("NaN"), {"value": "NaN"}),
    "fraction": (fractions.Fraction(1, 3), {"value": "1/3"}),
    "complex": (1 + 2j, {"value": "1+2j"}),
    "uuid": (uuid.UUID(int=1), {"value": "00000000-0000-0000-0000-000000000001"}),
    "path": (pathlib.PurePosixPath("a/b"), {"value": "a/b"}),
    "address": (ipaddress.ip_address("::1"), {"value": "::1"}),
    "enum": (Level.HIGH, {"value": 3}),
    "text enum": (Colour.RED, {"value": "red"}),
    "flag": (enum.IntFlag("Bits", "A B")(3), {"value": 3}),
    "set": ({"c", "a", "b"}, {"value": ["a", "b", "c"]}),
    "frozenset": ({"s": frozenset({2, 1})}, {"s": [1, 2]}),
    "set without order": (frozenset({1j}), {"value": ["1j"]}),
    "deque": (deque([1]), {"value": [1]}),
    "range": (range(3), {"value": [0, 1, 2]}),
    "keys": ({"a": 1}.keys(), {"value": ["a"]}),
    "items": ({"a": 1}.items(), {"value": [["a", 1]]}),
    "generator": ((n for n in (1, DAY)), {"value": [1, "2026-01-31"]}),
    "empty generator": ((n for n in ()), {"value": []}),
    "map": (map(str, [1]), {"value": ["1"]}),
    "bytes": (b"caf\xc3\xa9", {"value": "café"}),
    "bytes that are no text": (b"\xff\x00", {"value": "data:application/octet-stream;base64,/wA="}),
    "bytearray": (bytearray(b"a"), {"value": "a"}),
    "memoryview": ([memoryview(b"a")], {"value": ["a"]}),
    "NaN": (NAN, {"value": "NaN"}),
    "infinities": ([float("inf"), -float("inf")], {"value": ["Infinity", "-Infinity"]}),
    "numpy number": (np.float32(1.5), {"value": 1.5}),
    "numpy double": (np.float64(0.1), {"value": 0.1}),
    "numpy integer": ({"n": np.int64(7)}, {"n": 7}),
    "numpy truth": (np.bool_(True), {"value": True}),
    "numpy text": (np.str_("a"), {"value": "a"}),
    "numpy time": (np.datetime64("2026-01-31T09:00:00", "ns"), {"value": "2026-01-31T09:00:00.000000000"}),
    "numpy long": (np.longdouble(2), {"value": "2.0"}),
    "array": (np.array([[1, 2], [3, 4]]), {"value": [[1, 2], [3, 4]]}),
    "array of NaN": (np.array([NAN]), {"value": ["NaN"]}),
    "array of objects": (np.array([DAY, None]), {"value": ["2026-01-31", None]}),
    "empty array": (np.zeros((0, 3)), {"value": []}),
    "number in an array": (np.array(3), {"value": 3}),
    "masked array": (np.ma.masked_array([1, 2], [False, True]), {"value": [1, None]}),
    "records": (np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]), {"value": [[1, 2.0]]}),
    "tensor": (torch.tensor([[1.0, 2.0]], requires_grad=True), {"value": [[1.0, 2.0]]}),
    "tensor of bfloat16": ({"x": torch.tensor(0.5, dtype=torch.bfloat16)}, {"x": 0.5}),
    "frame": (FRAME, {"value": [{"day": "2026-01-31T00:00:00", "n": 1, "x": 0.5}, {"day": None, "n": 2, "x": "NaN"}]}),
    "frame with an index": (
        FRAME[["n"]].set_axis(["p", "q"]),
        {"value": [{"index": "p", "n": 1}, {"index": "q", "n": 2}]},
    ),
    "frame with a label twice": (TWICE, {"value": [{"a": 1, "a (2)": 2}]}),
    "series": (pd.Series([1, 2]), {"value": [1, 2]}),
    "labelled series": (pd.Series({"a": 1}), {"a": 1}),
    "missing": (pd.NA, {"value": None}),
    "arrow table": (pa.table({"a": [1, None]}), {"value": [{"a": 1}, {"a": None}]}),
    "error": (ValueError("no\nway"), {"value": "ValueError: no way"}),
    "keys that are numbers": (
        {1: "a", 2.5: "b", None: "c", False: "d"},
        {"1": "a", "2.5": "b", "null": "c", "false": "d"},
    ),
    "keys of other kinds": (
        {(1, "a"): 1, DAY: 2, Colour.RED: 3, Level.HIGH: 4, np.int64(9): 5, uuid.UUID(int=1): 6},
        {'[1, "a"]': 1, "2026-01-31": 2, "red": 3, "3": 4, "9": 5, "00000000-0000-0000-0000-000000000001": 6},
    ),
    "keys that become one": ({1: "a", "1": "b", "1 (2)": "c"}, {"1": "a", "1 (2)": "b", "1 (2) (2)": "c"}),
    "half a character": ({"\ud800": "a\udc00b"}, {"\ufffd": "a\ufffdb"}),
    "a pair of halves": ("\ud83d\ude00", {"value": "\U0001f600"}),
    "large integer": (10**30, {"value": 10**30}),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_result_is_told_as_json(name: str) -> None:
    """It is plain JSON, as the table in the module says."""
    value, told = KINDS[name]
    found = fitted(value, 400)
    assert found == told
    assert json.loads(json.dumps(found, allow_nan=False)) == told


class Vicious(dict[str, int]):
    """A mapping that cannot be read."""

    def items(self) -> Any:
        """Nothing."""
        raise RuntimeError("not to be read")

    def __len__(self) -> int:
        return 1


class Hostile:
    """An object whose every question is an error, the one for its class apart."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("do not ask")


def circle() -> list[Any]:
    found: list[Any] = []
    found.append({"again": found})
    return found


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


UNSHOWN: dict[str, tuple[Any, str]] = {
    "object": (object(), "of type object, it has no JSON form"),
    "object inside": ({"a": [object()]}, "of type dict, it has no JSON form"),
    "class": (Point, "of type type, it has no JSON form"),
    "function": (len, "of type builtin_function_or_method, it has no JSON form"),
    "circle": (circle(), "of type list, it holds itself"),
    "deep": (deep(), "of type list, it is nested too deeply"),
    "huge integer": (10**5000, "of type int, ValueError: Exceeds the limit"),
    "vicious": (Vicious(a=1), "of type Vicious, RuntimeError: not to be read"),
    "hostile": (Hostile(), "of type Hostile, RuntimeError: do not ask"),
    "meta tensor": (torch.zeros(2, device="meta"), "of type Tensor, "),
    "module": (torch, "of type module, it has no JSON form"),
}


@pytest.mark.parametrize("name", UNSHOWN)
def test_a_result_that_cannot_be_shown_is_no_error(name: str) -> None:
    """The model is told that the tool ran, and why it sees nothing; a second call would do the work twice."""
    value, why = UNSHOWN[name]
    ran = run_tool(lambda: value, {}, Limits(max_result=10_000_000 if name == "deep" else 400))
    assert ran.status == "ok"
    assert str(ran.result["note"]).startswith(f"the tool ran; its result cannot be shown: {why}")
    assert len(str(ran.result["note"])) < MAX_ERROR + 40
    assert run_tool(lambda: [1], {}, Limits()).result == {"value": [1]}


def test_the_loop_tells_it_and_goes_on() -> None:
    """Status and record say ok, the next prompt holds the result; a tool that raises is an error still."""
    for result, said in (
        (Point(DAY), '"2026-01-31"'),
        (object(), "the tool ran"),
        (ValueError("no"), "ValueError: no"),
    ):
        runtime = Script().say(calling("a"), "done" + END)
        run = runtime.loop(user(), [declared("a")], execute={"a": lambda result=result, **_: result})
        assert (run.status, run.executions[0].status) == ("answer", "ok")
        assert said in run.messages[2]["content"]

    def raises(**_: Any) -> None:
        raise ValueError("no")

    run = Script().say(calling("a"), "done" + END).loop(user(), [declared("a")], execute={"a": raises})
    assert run.executions[0].status == "error"


def arun(function: Any, arguments: dict[str, Any], limits: Limits) -> Ran:
    return asyncio.run(arun_tool(function, arguments, limits))


both = pytest.mark.parametrize("run", [run_tool, arun], ids=["sync", "async"])


@both
def test_a_generator_is_read_as_part_of_its_tool(run: Any) -> None:
    """What it raises is the tool's error, where it hangs the time limit ends it, and one without end is cut."""

    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("half way")

    def hanging() -> Iterator[int]:
        yield 1
        time.sleep(5)

    def endless() -> Iterator[str]:
        while True:
            yield ""

    async def counting() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def never() -> AsyncIterator[int]:
        while True:
            yield 0

    limits = Limits(timeout=0.3, max_result=40)
    assert run(broken, {}, limits)[:2] == ("error", {"error": "ValueError: half way"})
    assert run(hanging, {}, limits).status == "timeout"
    assert str(run(endless, {}, limits).result["value"]).endswith("[cut after 40 characters]")
    assert run(counting, {}, limits)[:2] == ("ok", {"value": [0, 1, 2]})
    assert str(run(never, {}, limits).result["value"]).endswith("[cut after 40 characters]")


@both
def test_a_value_whose_own_methods_hang_is_past_its_time(run: Any) -> None:
    """It is read where the tool ran; a value that is read at once is fine."""

    class Slow(Vicious):
        def items(self) -> Any:
            time.sleep(5)

    started = time.perf_counter()
    assert run(lambda: Slow(a=1), {}, Limits(timeout=0.3)).status == "timeout"
    assert time.perf_counter() - started < 4
    assert run(lambda: {"a": 1}, {}, Limits(timeout=0.3)).status == "ok"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("x" * 40, {"value": "x" * 40}),
        ("x" * 41, {"value": "x" * 40 + " [cut after 40 characters]"}),
        ({"a": "x" * 100}, {"value": '{"a": "' + "x" * 33 + " [cut after 40 characters]"}),
        (b"x" * 10_000, {"value": "x" * 40 + " [cut after 40 characters]"}),
        ("é".encode() * 200, {"value": "é" * 40 + " [cut after 40 characters]"}),
    ],
    ids=["fits", "text", "object", "bytes", "cut in a character"],
)
def test_what_is_too_long_is_cut(value: Any, told: dict[str, Any]) -> None:
    """And says so."""
    assert fitted(value, 40) == told


def test_only_what_is_told_is_written() -> None:
    """Values without end, and with many millions of numbers, take no longer than short ones."""
    doubled: Any = []
    for _ in range(30):
        doubled = [doubled, doubled]
    large = [np.zeros(30_000_000, dtype=np.int8), torch.zeros(30_000_000, dtype=torch.int8), range(10**15), "x" * 10**8]
    large += [pd.DataFrame({"a": large[0]}), pa.table({"a": large[0]}), bytes(10**8), b"\xff" * 10**8, doubled]
    for value in large:
        started = time.perf_counter()
        told = fitted(value, 200)
        assert time.perf_counter() - started < 1.0, type(value)
        assert str(told["value"]).endswith("[cut after 200 characters]")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=json_values, most=st.integers(1, 60))
def test_any_json_value_is_told_whole_or_cut(value: Any, most: int) -> None:
    """A value that fits is told as it is, any other as a text of bounded length."""
    told = fitted(value, most)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= most:
        assert told == (value if isinstance(value, dict) else {"value": value})
    else:
        assert told == {"value": f"{text[:most]} [cut after {most} characters]"}


def test_an_error_is_one_bounded_line() -> None:
    """Long texts are cut, line breaks are spaces, and an error whose own text fails still has its name."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert error_text(KeyError("x")) == "KeyError: 'x'"
    assert error_text(ValueError("a\n  b")) == "ValueError: a b"
    assert error_text(Broken()) == "Broken"
    assert error_text(ValueError("\ud800")) == "ValueError: ?"
    assert len(error_text(ValueError("x" * 10_000))) < MAX_ERROR + 40
