"""The page of recipes: each policy loads without a doubt and passes its cases, and each rule is what decides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from steerkit.guard import check_cases
from steerkit.policy import Cases, Policy, load_cases, loads, suspicious, unreachable
from tests.documents import ROOT

TEXT = (ROOT / "policies" / "RECIPES.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^## \d+\. (.*?)$.*?```yaml\n(.*?)```.*?```yml\n(.*?)```", TEXT, flags=re.DOTALL | re.MULTILINE)
TITLES = [title for title, *_ in RECIPES]


def recipe(number: int, folder: Path) -> tuple[Policy, Cases]:
    _, policy, cases = RECIPES[number]
    (folder / "cases.yml").write_text(cases)
    return loads(policy), load_cases(folder / "cases.yml")


def test_there_are_ten() -> None:
    """And every heading has a policy and its cases."""
    assert len(RECIPES) == len(re.findall(r"^## ", TEXT, flags=re.MULTILINE)) == 10
    assert len({loads(policy).name for _, policy, _ in RECIPES}) == 10


@pytest.mark.parametrize("number", range(len(RECIPES)), ids=TITLES)
def test_a_recipe_passes_its_cases(number: int, tmp_path: Path) -> None:
    """Nothing in it is in vain or suspicious, and every verdict is the expected one."""
    policy, cases = recipe(number, tmp_path)
    assert [*unreachable(policy), *suspicious(policy)] == []
    assert [str(one) for one in check_cases(policy, cases) if not one.holds] == []


@pytest.mark.parametrize("number", range(len(RECIPES)), ids=TITLES)
def test_every_rule_is_needed(number: int, tmp_path: Path) -> None:
    """The control: without any of its rules some case fails, and so does it with another default."""
    policy, cases = recipe(number, tmp_path)
    assert policy.guard is not None
    for rule in policy.guard.rules:
        rest = tuple(other for other in policy.guard.rules if other.name != rule.name)
        less = policy.model_copy(update={"guard": policy.guard.model_copy(update={"rules": rest})})
        assert rule.name in {one.rule for case in cases.cases for one in case.calls}
        if rule.when is None:  # without what it reads, values of the cases have no reader
            assert not all(one.holds for one in check_cases(less, cases)), rule.name
    other = policy.model_copy(update={"guard": policy.guard.model_copy(update={"default": "flag"})})
    assert not all(one.holds for one in check_cases(other, cases))
