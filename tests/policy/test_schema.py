"""The schema that editors read is the models' own, and every shipped policy fits it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from steerkit.errors import PolicyError
from steerkit.policy import load, loads, schema, schema_text
from steerkit.policy.schema import keys_at
from tests.policy.example import GOOD

POLICIES = Path(__file__).parents[2] / "policies"


def test_the_shipped_schema_is_the_models() -> None:
    """`policies/schema.json` is what `steerkit policy schema` prints, and takes the good file and not a bad one."""
    assert (POLICIES / "schema.json").read_text() == schema_text(), "run: steerkit policy schema > policies/schema.json"
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    assert validator.is_valid(yaml.safe_load(GOOD))
    assert not validator.is_valid({**yaml.safe_load(GOOD), "more": 1})


PLAIN = {
    "name",
    "description",
    "layer",
    "index",
    "model",
    "features",
    "probes",
    "steer",
    "guard",
    "trace",
    "feature",
    "probe",
    "above",
    "below",
    "when",
    "rules",
    "bias",
}
"""Names that say what they are, without a sentence of their own."""


def fields_of(part: dict[str, Any]) -> dict[str, Any]:
    return dict(part.get("properties", {}))


def test_every_field_is_explained() -> None:
    """A key of a policy has a description in the schema, or a name that needs none; so has every part."""
    whole = schema()
    parts = {"Policy": whole, **whole["$defs"]}
    silent = [
        f"{title}.{name}"
        for title, part in parts.items()
        for name, field in fields_of(part).items()
        if not field.get("description") and name not in PLAIN
    ]
    assert silent == []
    assert [title for title, part in parts.items() if not part.get("description")] == []
    assert fields_of(parts["Edit"])["cap"]["description"] == "At most this."


def test_the_schema_refuses_what_the_models_refuse() -> None:
    """Unknown keys, unknown words and empty edits fail in the editor as they fail when loaded; the good file passes."""
    validator = jsonschema.Draft202012Validator(schema())
    for right, wrong in (
        ("mode: shadow", "mode: shaded"),
        ("then: hold", "then: hold\n      extra: 1"),
        ("layer: 2,", "layer: -2,"),
        ("top_k: 16", "top_k: 1000"),
        ("name: payments", "name: a b"),
        ("steerkit: 1", "steerkit: 2"),
    ):
        text = GOOD.replace(right, wrong, 1)
        assert text != GOOD
        assert not validator.is_valid(yaml.safe_load(text)), wrong
        with pytest.raises(PolicyError):
            loads(text)
    assert validator.is_valid(yaml.safe_load(GOOD))


def test_the_keys_of_a_place_are_those_of_its_part() -> None:
    """Under names of the user's own and in lists the keys are known too; the names themselves are not listed."""
    assert keys_at(("features",)) == []
    assert keys_at(("features", "urge")) == ["layer", "site", "index", "label"]
    assert keys_at(("steer", 0, "edit", "urge"))[:2] == ["clamp", "ablate"]
    assert "then" in keys_at(("guard", "rules", 3))
    assert keys_at(("nowhere", 1, "x")) == []


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_policies_load_and_name_their_schema(path: Path) -> None:
    """Each shipped file is right by our reading and by its schema, and tells editors where that is."""
    assert load(path).name == path.stem
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    jsonschema.validate(yaml.safe_load(path.read_text()), schema())
