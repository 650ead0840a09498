"""Policies that ship, by name, from wherever one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.errors import PolicyError
from steerkit.policy import load, locate, shipped, shipped_file


@pytest.mark.parametrize("name", ["payments", "functiongemma/guard", Path("functiongemma/observe")])
def test_a_name_is_enough(name: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, and beside a folder of that name; a file of that name goes before it."""
    monkeypatch.chdir(tmp_path)
    assert load(name).name == Path(name).name
    assert locate(name, []) == []
    if name == "payments":
        Path("payments").mkdir()
        assert load(name).name == "payments"
        Path("payments").rmdir()
        Path("payments").write_text("steerkit: 1\nname: mine\n")
        assert load(name).name == "mine"


def test_what_ships_is_named_and_loads() -> None:
    """Every one of them, and no file of cases among them."""
    assert {"payments", "flows", "functiongemma/guard"} <= set(shipped())
    assert [load(name).name for name in shipped()] == [Path(name).name for name in shipped()]
    assert shipped_file("flows").name == "flows.yaml"


MISSING = [
    ("paymens", "did you mean 'payments'?"),
    ("nothing-like-it", "or one that ships: flows, "),
    ("functiongemma/guards", "did you mean 'functiongemma/guard'?"),
]
NO_NAMES = ["payments.yml", "./payments", "../payments", "/payments", "payments/", "pay ments", "", "a\0b"]


@pytest.mark.parametrize(("name", "says"), MISSING)
def test_a_name_of_none_is_told_those_that_ship(name: str, says: str) -> None:
    """In one line."""
    with pytest.raises(PolicyError, match=r"no such file; expected a policy \(YAML\)") as refusal:
        load(name)
    assert says in str(refusal.value)


@pytest.mark.parametrize("path", NO_NAMES)
def test_a_path_is_no_name(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has a suffix, a root or steps upwards is looked for where it says, and nowhere else."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match=r"expected a policy \(YAML\)"):
        load(path)
