"""Turns made with prepared steps: the same as ever, and their records say how they were made."""

from __future__ import annotations

from pathlib import Path

import steerkit
from steerkit.audit import read_turn
from steerkit.runtime import Runtime
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
            body = read_turn(runtime.store, runtime.store.get(str(turn.record_id))).body
            said.add(body["machine"].get("decoding"))
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
