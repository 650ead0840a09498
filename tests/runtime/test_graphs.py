"""Turns made with prepared steps: the same as ever, and their records say how they were made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from typer.testing import CliRunner

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import Store, read_turn
from steerkit.cli.main import app
from steerkit.types import Tool

TOOLS = [Tool("get_weather", "Weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}})]
POLICIES = Path(__file__).parents[2] / "policies"


def turns(runtime: Runtime) -> tuple[list[tuple[object, ...]], set[str | None]]:
    """What some turns under several policies say, show and are judged to be, and how they were made."""
    found, said = [], set()
    assert runtime.store is not None
    for policy in ("orders", "shell", "payments", "orders"):
        for text in ("What is the weather in Oslo?", "Delete all my files"):
            turn = runtime.run(
                [{"role": "user", "content": text}], TOOLS, policy=POLICIES / f"{policy}.yaml", max_new_tokens=24
            )
            edits = [(edit.rule, edit.layer, edit.positions) for edit in turn.trace.edits]
            found.append((turn.reply_ids, turn.finish, turn.verdicts, edits, turn.trace.places))
            record = read_turn(runtime.store, runtime.store.get(str(turn.record_id))).record
            said.add((record.machine or {}).get("decoding"))
    return found, said


def test_turns_are_the_same_and_say_how_they_were_made(tmp_path: Path) -> None:
    """On prepared steps every turn is as without, traces and edits included; its record says how it was made."""
    with steerkit.load("tiny", audit=tmp_path / "a.db", graphs=True) as fixed:
        found, said = turns(fixed)
        assert fixed.graphs is not None
        assert fixed.graphs.statistics.generations == len(found)
        assert fixed.graphs.statistics.captures < len(found)
        assert said == {"fixed steps"}
    with steerkit.load("tiny", audit=tmp_path / "b.db") as plain:
        assert plain.graphs is None
        assert turns(plain) == (found, {None})


def said_of(store: Store, record: str | None) -> str | None:
    """How a turn's tokens were made, by its record."""
    found: str | None = read_turn(store, store.get(str(record))).record.machine.get("decoding")
    return found


def captures(reserve: bool) -> list[int]:
    """How many steps were prepared after each of some turns, from small policies to large."""
    runtime, found = steerkit.load("tiny", audit=False, graphs=True), []
    assert runtime.graphs is not None
    policies = [POLICIES / f"{name}.yaml" for name in ("shell", "orders", "payments")]
    if reserve:
        runtime.reserve([None, *policies])
    for policy in (*policies, policies[0]):
        runtime.run([{"role": "user", "content": "Delete all my files"}], TOOLS, policy=policy, max_new_tokens=4)
        found.append(runtime.graphs.statistics.captures)
    assert runtime.graphs.statistics.fallbacks == 0
    return found


def test_reserved_room_serves_every_policy() -> None:
    """With room for all of them one step is prepared; the control prepares another where a larger policy comes."""
    assert captures(reserve=True) == [1] * 4
    assert captures(reserve=False)[-1] > 1


def test_reserving_without_prepared_steps_does_nothing() -> None:
    """So that one program runs with and without a GPU."""
    runtime = steerkit.load("tiny", audit=False)
    runtime.reserve([POLICIES / "shell.yaml"])
    assert runtime.graphs is None


@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch's compiler needs a C++ compiler on a CPU")
def test_compiled_steps_say_the_same_and_are_compiled_once(tmp_path: Path) -> None:
    """By PyTorch's real compiler: one graph without a break, which other policies do not compile again."""
    torch._dynamo.reset()
    counters.clear()  # of other tests in this process
    names = [POLICIES / f"{name}.yaml" for name in ("payments", "shell", "orders")]
    asked = [{"role": "user", "content": "Delete all my files"}]
    with steerkit.load("tiny", audit=tmp_path / "a.db", graphs="compiled") as compiled:
        compiled.reserve(names)
        graphs = []
        plain = steerkit.load("tiny", audit=False)
        for name in names:
            turn = compiled.run(asked, TOOLS, policy=name, max_new_tokens=16)
            expected = plain.run(asked, TOOLS, policy=name, max_new_tokens=16)
            assert (turn.reply_ids, turn.verdicts) == (expected.reply_ids, expected.verdicts)
            assert compiled.store is not None
            assert said_of(compiled.store, turn.record_id) == "compiled steps"
            graphs.append(counters["stats"]["unique_graphs"])
        assert graphs == [graphs[0]] * 3
        assert graphs[0] > 0
        assert not counters["graph_break"]
    torch._dynamo.reset()


@pytest.mark.parametrize(("given", "said"), [("on", "fixed steps"), ("off", None), ("auto", None)])
def test_the_command_takes_them_as_an_option(given: str, said: str | None, tmp_path: Path) -> None:
    """`steerkit run --graphs on` makes tokens with prepared steps; by default a CPU does not."""
    path = tmp_path / "audit.db"
    done = CliRunner().invoke(app, ["run", "hello", "--graphs", given, "--store", str(path), "--max-new-tokens", "4"])
    assert done.exit_code == 0, done.output
    store = Store(path, create=False)
    assert said_of(store, "2") == said  # the first record opens the run
    store.close()
