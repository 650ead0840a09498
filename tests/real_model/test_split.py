"""What is tested on is kept out of the tuning: functions, wordings, values and questions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steerkit.engine import load_model
from steerkit.lab import read_cases
from steerkit.lab.prove.suites import read_bfcl
from tests.real_model.bfcl_folder import write_bfcl

SMALL = {"agent": 350, "functions": 150, "invented": 300}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bfcl(tmp_path_factory.mktemp("bfcl"))


@pytest.fixture(scope="module")
def tuning(folder: Path) -> list[dict[str, Any]]:
    import dataset

    return dataset.tuning_rows(folder, 0, SMALL)


@pytest.fixture(scope="module")
def held() -> list[dict[str, Any]]:
    import dataset

    sets = [side for danger in dataset.DANGERS for side in dataset.danger_rows(danger, "report", 48)]
    return [*dataset.held_rows(120), *(row for side in sets for row in side)]


def test_the_tuning_saw_nothing_that_is_tested_on(
    tuning: list[dict[str, Any]], held: list[dict[str, Any]], folder: Path
) -> None:
    import bfcl
    import dataset

    names = bfcl.tested_names(read_bfcl(folder))
    assert names == {"area_of_square", "never_fits"}
    assert dataset.leaks(tuning, held, names) == []


def test_a_leak_of_each_kind_is_found(tuning: list[dict[str, Any]], held: list[dict[str, Any]]) -> None:
    """The control: a held-out conversation among the tuning's, and a tested function."""
    import dataset

    one = next(row for row in held if row["wordings"] and row["values"])
    kinds = Counter(
        leak.split(":")[0] for leak in dataset.leaks([*tuning, one], held, {one["tools"][0]["function"]["name"]})
    )
    assert set(kinds) == {"wording", "value", "question", "function"}
    value = sorted(dataset.values_of(held))[0]
    told = {**tuning[0], "messages": [{"role": "user", "content": f"Is {value.upper()} here?"}]}
    assert dataset.leaks([told], held) == [f"value: {value}"]
    assert dataset.without_values([told, tuning[0]], {value}) == [tuning[0]]


def test_choosing_shares_nothing_with_reports(held: list[dict[str, Any]]) -> None:
    import dataset

    chosen = [row for d in dataset.DANGERS for side in dataset.danger_rows(d, "choose", 48) for row in side]
    chosen += [row for d in ("money", "files") for row in dataset.refused_rows(d, "choose", 48)]
    assert dataset.leaks(chosen, held) == []


def test_bfcl_is_read_without_the_tested_functions(folder: Path) -> None:
    """A question for a tested function is left out, the function is not declared beside others, and 2.0 is 2."""
    import bfcl

    rows = bfcl.rows(folder, 0)
    assert not {tool["function"]["name"] for row in rows for tool in row["tools"]} & {"area_of_square", "never_fits"}
    sources = Counter(row["source"] for row in rows)
    assert sources["bfcl_live_simple"] == 3
    assert sources["bfcl_exec_simple"] == sources["bfcl_live_multiple"] == 1
    (sleep,) = (row for row in rows if row["source"] == "bfcl_live_multiple")
    (call,) = sleep["messages"][-1]["tool_calls"]
    assert call["function"] == {"name": "sleep", "arguments": {"hours": 2}}
    assert type(call["function"]["arguments"]["hours"]) is int


def test_the_same_seed_makes_the_same_conversations(folder: Path, tuning: list[dict[str, Any]]) -> None:
    import dataset

    assert dataset.tuning_rows(folder, 0, SMALL) == tuning
    assert dataset.tuning_rows(folder, 1, SMALL) != tuning


def test_written_sets_are_read_by_the_commands(tmp_path: Path) -> None:
    """Each file holds as many conversations as asked for, and `features find` and `eval` can read it."""
    import dataset

    paths = dataset.write_sets(tmp_path, 6)
    assert len(paths) == 13
    loaded = load_model("tiny")
    for path in paths[:-1]:
        cases, _ = read_cases(path, loaded, "reply.start")
        assert len(cases) == (9 if path.stem in ("money_choose_benign", "files_choose_benign") else 6)
    assert not any(one["messages"][-1].get("tool_calls") for one in dataset.refused_rows("files", "choose", 3))
    twice = dataset.danger_rows("money", "choose", 3)[1] * 2
    assert dataset.without_copies(twice, 6) == twice[:3]
    harmful, benign = dataset.danger_rows("money", "report", 6)
    assert all(row["messages"][-1]["tool_calls"][0]["function"]["name"] in row["dangerous"] for row in harmful)
    assert not any(row["messages"][-1]["tool_calls"][0]["function"]["name"] in row["dangerous"] for row in benign)
