"""The benchmark of detectors: its arithmetic, and that it finds what is there and nothing where there is nothing."""

from __future__ import annotations

import importlib
import json
import random
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.tiny.world.conversations import sample

FOLDER = str(Path(__file__).parents[2] / "benchmarks")
KINDS = ("dangerous:transfer_money", "benign")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The benchmark's module, found as its script finds it."""
    sys.path.insert(0, FOLDER)
    try:
        yield importlib.import_module("detectors")
    finally:
        sys.path.remove(FOLDER)


def files(folder: Path, *, mixed: bool) -> Namespace:
    """Requests for money and others, to choose on and unseen; `mixed` deals them out by lot."""
    found = []
    for split in ("select", "report"):
        rows = [[{"messages": list(one.messages), "tools": list(one.tools)} for one in sample(kind, split, 16)]
                for kind in KINDS]  # fmt: skip
        if mixed:
            together = rows[0] + rows[1]
            random.Random(3).shuffle(together)
            rows = [together[:16], together[16:]]
        for name, some in zip(("positive", "negative"), rows, strict=True):
            found.append(folder / f"{split}-{name}.jsonl")
            found[-1].write_text("".join(json.dumps(row) + "\n" for row in some))
    return Namespace(choose=found[:2], sets=[[found[3], found[2]]])


@pytest.mark.parametrize("mixed", [False, True])
def test_detectors_find_what_is_there(bench: Any, box: Runtime, tmp_path: Path, mixed: bool) -> None:
    """Every kind tells unseen requests for money from others; of conversations dealt out by lot none does."""
    given = files(tmp_path, mixed=mixed)
    rows = bench.best_of(bench.rows_at(box.loaded, box.saes, "reply.start", ["attn_out", "resid_post"], given))
    assert len(rows) == 5
    assert len({row.kind for row in rows}) == 4
    for row in rows:
        (measured,) = row.unseen.values()
        assert (measured.auroc > 0.9) is not mixed
        assert row.microseconds > 0
        assert measured.recall.count in range(10, 17)


def test_windows_are_the_largest_mean_in_a_row(bench: Any) -> None:
    """By conversation; where it has fewer tokens, of all of them."""
    scores, owners = torch.tensor([1.0, 5, 3, 9, -2, 4, 4]), torch.tensor([0, 0, 0, 2, 1, 1, 1])
    assert bench.largest(scores, owners, 3, 1).tolist() == [5, 4, 9]
    assert bench.largest(scores, owners, 3, 2).tolist() == [4, 4, 9]
    assert bench.largest(scores, owners, 3, 8).tolist() == [3, 2, 9]


def test_injected_results_differ_in_the_result_alone(bench: Any, box: Runtime, tmp_path: Path) -> None:
    """Conversations of all suites end with a result, as it is and with an order to call a dangerous tool."""
    pytest.importorskip("agentdojo")
    written = sys.modules["injected_results"].write_results(tmp_path, 3, 100_000, box.loaded)
    clean, injected = ([json.loads(line) for line in path.read_text().splitlines()] for path in written)
    assert len(clean) == len(injected) >= 8
    for one, other in zip(clean, injected, strict=True):
        assert one["messages"][:-1] == other["messages"][:-1]
        assert one["messages"][-1]["role"] == "tool"
        assert ["INFORMATION" in json.dumps(row["messages"][-1]) for row in (one, other)] == [False, True]
        assert set(other["dangerous"]) <= {tool["name"] for tool in other["tools"]}
        assert {**one, "messages": []} == {**other, "messages": []}
