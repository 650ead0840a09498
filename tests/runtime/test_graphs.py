"""Turns made with prepared steps: the same as ever, and their records say how they were made."""

from __future__ import annotations

from pathlib import Path

import steerkit
from steerkit.audit import Store
from steerkit.runtime import Runtime
from steerkit.types import Tool

TOOLS = [Tool("get_weather", "Weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}})]
POLICIES = Path(__file__).parents[2] / "policies"


def turns(runtime: Runtime) -> list[tuple[object, ...]]:
    """What some turns under several policies say, show and are judged to be."""
    found = []
    for policy in ("orders", "shell", "payments", "orders"):
        for text in ("What is the weather in Oslo?", "Delete all my files"):
            turn = runtime.run(
                [{"role": "user", "content": text}], TOOLS, policy=POLICIES / f"{policy}.yaml", max_new_tokens=24
            )
            edits = [(edit.rule, edit.layer, edit.positions) for edit in turn.trace.edits]
            found.append((turn.reply_ids, turn.finish, turn.verdicts, edits, turn.trace.places))
    return found


def test_turns_are_the_same_and_say_how_they_were_made(tmp_path: Path) -> None:
    """On prepared steps every turn is as without, tripwires and traces included; only `decoding` is recorded besides."""
    with steerkit.load("tiny", audit=tmp_path / "a.db", graphs=True) as fixed:
        found = turns(fixed)
        assert fixed.graphs is not None
        assert fixed.graphs.statistics.generations == len(found)
        assert fixed.graphs.statistics.captures < len(found)
    with steerkit.load("tiny", audit=tmp_path / "b.db") as plain:
        assert plain.graphs is None
        assert turns(plain) == found
    said = []
    for name in ("a.db", "b.db"):
        with Store(tmp_path / name) as store:
            said.append({record.body["machine"].get("decoding") for record in store if "machine" in record.body})
    assert said == [{"fixed steps"}, {None}]
