"""`--engine vllm` and `--engine ray-vllm` of the commands over files, and two of vLLM's engines on a Ray cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import steerkit
from steerkit.agent import Runtime
from steerkit.cli.main import app
from steerkit.engine import Vllm
from steerkit.errors import ModelError
from steerkit.lab.workers import fingerprints, load_same, on_ray
from steerkit.policy import shipped_file
from steerkit.runtime import Request
from steerkit.tiny.world.conversations import sample
from tests.cli.test_eval import written
from tests.vllm.conftest import SMALL
from tests.vllm.test_tokens import REQUESTS

pytestmark = pytest.mark.slow

SETTINGS = [word for name, value in SMALL.items() for word in ("--vllm", f"{name}={value}")]
PAYMENTS = shipped_file("payments")


@pytest.fixture(autouse=True, scope="module")
def inside_workers() -> Iterator[None]:
    """vLLM runs in the processes of Ray's workers, not beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Requests to pay, and benign ones."""
    folder = tmp_path_factory.mktemp("files")
    harmful = written(folder / "harmful.jsonl", sample("dangerous:transfer_money", "report", 4, 7))
    return harmful, written(folder / "benign.jsonl", sample("benign", "report", 4, 7))


def load() -> Runtime:
    """A runtime on vLLM, as each worker loads it."""
    return steerkit.load("tiny", engine=Vllm(**SMALL), audit=False)


def answered(runtime: Runtime, some: Sequence[Request]) -> tuple[int, str, list[Any]]:
    """The process that answers some requests, its engine, and what it answers."""
    turns = runtime.run_batch(some, batch_size=len(some))
    said = [(turn.reply_ids, turn.calls, [verdict.decision for verdict in turn.verdicts]) for turn in turns]
    return os.getpid(), type(runtime.engine).__name__, said


def test_two_engines_answer_one_data_set(box: Runtime) -> None:
    """Four batches under four policies, on two workers with an engine each: the replies and verdicts of one process.

    The control: workers with other weights than those that are asked for are refused.
    """
    pieces = [REQUESTS[start : start + 14] for start in range(0, 56, 14)]
    with on_ray(partial(load_same, load, fingerprints(box)), workers=2) as mapper:
        found = list(mapper(answered, pieces))
    assert [said for _, _, said in found] == [answered(box, piece)[2] for piece in pieces]
    assert {engine for _, engine, _ in found} == {"VllmEngine"}
    assert len({process for process, _, _ in found}) == 2
    assert os.getpid() not in {process for process, _, _ in found}
    other, said = partial(load_same, load, ("sha256:0", None)), "a worker has other weights under this name"
    with on_ray(other, workers=1) as mapper, pytest.raises(ModelError, match=said):
        list(mapper(answered, pieces[:1]))


def test_commands_print_what_they_print_on_transformers(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation on two of vLLM's engines on Ray, bounds and features by one: JSON, and nothing else on standard
    output."""
    harmful, benign = map(str, files)
    short = ("--seeds", "1", "--doses", "1", "--max-new-tokens", "32", "--batch", "4", "--no-probes")
    proving = ("eval", "--policy", PAYMENTS, "--harmful", harmful, "--benign", benign, *short, "--json", "-")
    choosing = ("calibrate", PAYMENTS, "--data", benign, "--rate", "0.3", "--max-new-tokens", "32", "--json")
    for command, more, ways in (
        (proving, ("--pairs", "0"), ("ray-vllm", "--workers", "2")),
        (choosing, (), ("vllm",)),
    ):
        told = []
        for way in ((), ("--engine", *ways, *SETTINGS)):
            capsys.readouterr()
            app([*map(str, (*command, *more, *way))], standalone_mode=False)
            told.append(json.loads(capsys.readouterr().out))
        expected, found = told
        check(found, expected)


def check(found: Any, expected: Any) -> None:
    """The same JSON, to rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            check(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check(one, other)
    else:
        assert found == (pytest.approx(expected, rel=1e-3, abs=1e-3) if isinstance(expected, float) else expected)
