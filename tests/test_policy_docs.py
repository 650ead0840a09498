"""The reference of the policy language executes: its examples load, and every field stands in it and in an example."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerkit.policy import UNITS, Policy, loads, schema, suspicious, unreachable
from steerkit.types import PLACES
from tests.directions import documented

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "policies" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml( fragment)?\n(.*?)```", TEXT, flags=re.DOTALL)


def policy_of(fragment: str, block: str) -> Policy:
    """The policy of a block; a fragment takes the place of its keys in the first block, which is whole."""
    if not fragment:
        return documented(block)
    whole = yaml.safe_load(BLOCKS[0][1])
    return loads(yaml.safe_dump({**whole, **yaml.safe_load(block)}))


POLICIES = [policy_of(*block) for block in BLOCKS]


def fields() -> Iterator[tuple[str, str]]:
    """Part and key of every field of the format."""
    whole = schema()
    for title, part in {"Policy": whole, **whole["$defs"]}.items():
        yield from ((title, key) for key in part.get("properties", {}))


def keys_by_part(policy: Policy) -> Iterator[tuple[str, str]]:
    """Part and key of everything that a policy says."""

    def walk(part: Any) -> Iterator[tuple[str, str]]:
        if isinstance(part, dict):
            part = tuple(part.values())
        if isinstance(part, tuple):
            for inner in part:
                yield from walk(inner)
        elif hasattr(part, "model_fields_set"):
            for name in part.model_fields_set:
                field = type(part).model_fields[name]
                yield type(part).__name__, field.alias or name
                yield from walk(getattr(part, name))

    yield from walk(policy)


def test_every_block_is_a_policy_without_a_doubt() -> None:
    """Whole ones and fragments load, none of their rules is in vain, and nothing in them is doubtful."""
    assert len(BLOCKS) >= 3
    for policy in POLICIES:
        assert [*unreachable(policy), *suspicious(policy)] == []


def test_every_field_stands_in_the_text_and_in_an_example() -> None:
    """Each key of the JSON Schema is named in code and used in a block; a key that is no field would be missed."""
    used = {field for policy in POLICIES for field in keys_by_part(policy)}
    # A gate's parts and a condition's have the same keys.
    used |= {("Condition", key) for part, key in used if part == "Gate"}
    used |= {("Gate", key) for part, key in used if part == "Condition"}
    for part, key in fields():
        assert re.search(rf"\b{key}\b", TEXT), key
        assert (part, key) in used, (part, key)
    assert ("Edit", "nothing") not in used


@pytest.mark.parametrize("place", [*PLACES, "call.arguments.NAME"])
def test_every_place_has_a_row(place: str) -> None:
    """The table of places says of each what it is when read and when written to."""
    assert re.search(rf"^\| `{re.escape(place)}` \| .+ \| .+ \|$", TEXT, flags=re.MULTILINE)


def test_every_unit_and_ruling_is_named() -> None:
    """Units, decisions, modes, holds and ways to write back stand in the text as they are written in a file."""
    whole = schema()["$defs"]["GuardRule"]["properties"]["then"]["enum"]
    for word in (*UNITS, *whole, "shadow", "enforce", "delta", "reconstruction", "token", "turn", "invalid_arguments"):
        assert f"`{word}`" in TEXT or f": {word}`" in TEXT, word
