"""Schemas of guard rules in older drafts: what a keyword means there is what is checked."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.policy.checks import schema_problems

OLD = "http://json-schema.org/draft-%s/schema#"


def problems(draft: str, **part: Any) -> list[str]:
    schema = {"$schema": OLD % draft, "properties": {"a": part}}
    return [problem.text for problem in schema_problems((), schema)]


@pytest.mark.parametrize(
    ("draft", "part", "wrong"),
    [
        ("04", {"minimum": 5, "maximum": 9, "exclusiveMaximum": True}, []),
        ("04", {"minimum": 5, "maximum": 4}, ["got minimum 5 and maximum 4, so no number fits"]),
        ("06", {"minimum": 5, "exclusiveMaximum": 5}, ["got minimum 5 and exclusiveMaximum 5, so no number fits"]),
        ("06", {"minimum": 5, "exclusiveMaximum": 6}, []),
        ("03", {"required": True}, []),
        ("04", {"required": ["b"], "additionalProperties": False}, ["got 'b', which the same schema does not let in"]),
    ],
)
def test_keywords_mean_what_they_mean_in_their_draft(draft: str, part: dict[str, Any], wrong: list[str]) -> None:
    """Up to draft 4 an exclusive bound is true or false, and in draft 3 `required` is."""
    assert problems(draft, **part) == wrong
