"""Runtimes on vLLM: in this process, in processes of its own, and compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import steerkit
from steerkit.agent import Runtime
from steerkit.chat import dialect_of
from steerkit.engine import Vllm, VllmEngine
from steerkit.server import Limits
from steerkit.tiny.demo_requests import policy_files
from tests.server.serving import EXTRA, RETRY, Served, serving

ABSENT = "vLLM is not installed here; `python -m tests.vllm` makes an environment for it and runs these"
NUMBERS = count()
SMALL = {"max_num_seqs": 64, "max_model_len": 1024, "kv_cache_memory_bytes": 1 << 28}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them where there is no vLLM; its own warnings are no errors."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.skipif(find_spec("vllm") is None, reason=ABSENT))


def runtime(folder: Path, *, beside: bool = False, **settings: Any) -> Runtime:
    """A runtime on the model in the box with its policies; `beside`: in processes of its own, vLLM's own way."""
    import_module("vllm.envs").disable_envs_cache()  # else what an earlier engine found in the environment holds
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", str(int(beside)))
        engine = Vllm(**{**SMALL, **settings})
        return steerkit.load("tiny", engine=engine, policy=policy_files(), audit=folder / "audit.db")


@pytest.fixture(scope="session")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """In this process: few tokens a pass, so that prompts come in chunks, and so few blocks that requests are
    preempted."""
    few: dict[str, Any] = {"block_size": 16, "num_gpu_blocks_override": 80, "max_num_batched_tokens": 128}
    with runtime(tmp_path_factory.mktemp("inside"), **few) as found:
        yield found


@pytest.fixture(scope="session")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """In processes of its own, with vLLM's own sizes."""
    with runtime(tmp_path_factory.mktemp("beside"), beside=True) as found:
        yield found


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """In processes of its own, through `torch.compile`: steering is an operator in the graph."""
    with runtime(tmp_path_factory.mktemp("compiled"), beside=True, enforce_eager=False) as found:
        yield found


@pytest.fixture(scope="module")
def served(beside: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server as the server's own tests have it, on vLLM in processes of its own."""
    policies: tuple[list[Any], list[str]] = (["payments", "people"], ["none"])
    more: dict[str, Any] = {"more": [*EXTRA, RETRY], "limits": Limits(body_seconds=1.5), "batch_size": 16}
    with serving(tmp_path_factory.mktemp("served"), *policies, engine=beside.engine, **more) as found:
        yield found


class Raw(NamedTuple):
    """A request that went to vLLM by itself."""

    tokens: list[int]
    cached: int
    """Tokens of its prompt that came from the prefix cache."""
    error: str
    """What the worker says of it."""


def raw(one: Runtime, ids: Sequence[int], most: int = 32, **how: Any) -> Raw:
    """Send a request as a client might that knows nothing of steerkit: `row`, `salt` and `skips_cache` as it likes."""
    engine = one.engine
    assert isinstance(engine, VllmEngine)
    llm, stops = engine._llm, sorted(dialect_of(engine.tokenizer).stops)
    how = {"row": None, "salt": None, "skips_cache": False, **how}
    asked = llm.add(f"raw-{next(NUMBERS)}", list(ids), most=most, stops=stops, **how)
    while not asked.over:
        llm.step()
    name, tokens = asked.id, list(asked.tokens)
    _, error = llm.call("steerkit_errors", {name: len(ids) + len(tokens) - 1}).get(name, ("", ""))
    llm.call("steerkit_forget", [name])
    return Raw(tokens, asked.cached, error)


def worker(one: Runtime) -> Any:
    """The worker of a runtime in this process."""
    engine = one.engine
    assert isinstance(engine, VllmEngine)
    return engine._llm._engine.model_executor.driver_worker.worker
