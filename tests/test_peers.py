from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.testing import SMALL, random_model

FOLDER = str(Path(__file__).parents[1] / "benchmarks")
LAYERS = int(SMALL["num_hidden_layers"])
TOOLS = {"saelens": "sae_lens", "bridge": "sae_lens", "nnsight": "nnsight", "pyvene": "pyvene", "repeng": "repeng"}


@pytest.fixture(scope="module")
def bench() -> Any:
    """The benchmark's modules, found as its script finds them."""
    sys.path.insert(0, FOLDER)
    try:
        yield importlib.import_module("peers")
    finally:
        sys.path.remove(FOLDER)


@pytest.fixture(scope="module")
def peers(bench: Any) -> Any:
    """Two prompts of a small model with random SAEs."""
    prompts = torch.randint(1, SMALL["vocab_size"], (2, 9), generator=torch.Generator().manual_seed(0))
    return bench.Peers(random_model(SMALL), bench.random_saes(LAYERS, SMALL["hidden_size"], bias=0.0), prompts)


def test_arms_that_claim_the_same_clamp_end_in_the_same_activations(bench: Any, peers: Any) -> None:
    """steerkit's deltas and reconstructions are those of hand-written hooks, and of every tool that is installed."""
    arms = peers.arms(bench.Work((0, 2), bench.FEATURES, 3.0), lambda line: None)
    assert {arm.write for arm in arms.values()} >= {"nothing", "delta", "reconstruction"}
    agreement = bench.Agreement(arms, 4, strict=True)
    assert agreement.wrong == 0, agreement.words
    assert not agreement.failed


def test_an_arm_that_does_other_work_is_found_out(bench: Any, peers: Any) -> None:
    """A clamp to another value, or on fewer layers, is called wrong, and so is an edit that changes nothing."""
    arms = peers.arms(bench.Work((0, 2), bench.FEATURES, 3.0), lambda line: None)
    for other in (bench.Work((0, 2), bench.FEATURES, 2.5), bench.Work((0,), bench.FEATURES, 3.0)):
        name = "hooks, sparse delta by hand"
        mixed = {**arms, name: peers.arms(other, lambda line: None)[name]}
        assert bench.Agreement(mixed, 4, strict=True).words[name].endswith("WRONG")
    idle = {"plain": arms["plain"], "steerkit": arms["plain"]._replace(write="delta")}
    assert bench.Agreement(idle, 4, strict=True).wrong == 1


def test_a_deferred_trace_holds_what_is_recorded_in_line(bench: Any, peers: Any) -> None:
    """The strongest features of every new token are the same, and records of an edited model are not."""
    work = bench.Work(tuple(range(LAYERS)))
    arms = peers.arms(work, lambda line: None)
    agreement = bench.Agreement(arms, 4, strict=True)
    assert agreement.wrong == 0, agreement.words
    assert not agreement.failed
    name = "hooks, top-32 in line"
    assert "100.0% of the indices" in agreement.words[name]
    shuffled = bench.Records()

    def other(tokens: int) -> Any:
        shuffled.clear()
        shuffled.update({LAYERS - 1 - layer: kept for layer, kept in arms[name].run(tokens).items()})
        return shuffled

    assert bench.Agreement({**arms, name: arms[name]._replace(run=other)}, 4, strict=True).wrong == 1


def test_a_tool_that_is_not_installed_is_left_out_in_one_line(bench: Any, peers: Any) -> None:
    """The line names the tool and the extra; a tool that is installed is there."""
    lines: list[str] = []
    arms = peers.arms(bench.Work((0,), bench.FEATURES, 3.0), lines.append)
    missing = {tool for tool, module in TOOLS.items() if find_spec(module) is None}
    assert {line.split()[0] for line in lines} == missing
    assert all("pip install -e '.[peers]'" in line and "\n" not in line for line in lines)
    assert any(name.startswith("repeng") for name in arms) == ("repeng" not in missing)
