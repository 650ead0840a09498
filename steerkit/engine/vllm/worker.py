"""The worker that vLLM runs the model in, with steering installed before it warms up, compiles or captures.

It is named to vLLM by its path (`worker_cls`), so that a server whose worker cannot be imported does not start.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from psutil import STATUS_ZOMBIE, NoSuchProcess, Process
from torch import Tensor
from transformers import AutoTokenizer
from vllm.config import CompilationMode, CUDAGraphMode
from vllm.platforms import current_platform

from steerkit.chat import Tokenizer, place_machine
from steerkit.engine.api import Decided
from steerkit.engine.vllm.choosing import Choosing
from steerkit.engine.vllm.operator import steer
from steerkit.engine.vllm.steering import Scheduled, WorkerSteering
from steerkit.engine.vllm.wire import (
    CHOICE,
    KEY,
    OWNER,
    Asks,
    packed_trace,
    packed_values,
    unpacked_decoder,
    unpacked_wanted,
)
from steerkit.errors import ModelError
from steerkit.sae import load_set
from steerkit.sites import Site
from steerkit.steer import TABLE, Extent, find_sites
from steerkit.types import Span

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker
else:
    from vllm.v1.worker.gpu_worker import Worker


class SteeredWorker(Worker):  # type: ignore[misc]  # vLLM has no types here
    """A platform's worker whose model is steered. Its methods besides vLLM's are called by `collective_rpc`.

    Where several share each layer (tensor parallel), each steers the whole activations, which they have reduced before,
    and the first one chooses tokens, as it alone has logits.
    """

    def load_model(self, **how: Any) -> None:
        """Load the model and put steering on it."""
        super().load_model(**how)
        tokenizer = AutoTokenizer.from_pretrained(self.model_config.tokenizer, trust_remote_code=False)
        self.choosing = Choosing(tokenizer, self.device)
        self.steering = _installed(self, tokenizer)
        owner = int(os.environ[OWNER])
        if owner != os.getpid():
            Thread(target=_end_after, args=(owner,), name="steerkit-owner", daemon=True).start()

    def execute_model(self, scheduled: Any, *rest: Any) -> Any:
        """Run one pass that the scheduler made."""
        try:
            _announce(self.steering, self.choosing, scheduled)
        except Exception as error:  # the server lives on, and releases nothing
            self.steering.fail_all(f"vLLM's schedule could not be read: {type(error).__name__}: {error}")
        try:
            return super().execute_model(scheduled, *rest)
        finally:
            self.steering.end()

    def steerkit_describe(self) -> tuple[list[str], int, dict[str, Any]]:
        """The hook points that are steered, the width of their activations, and facts for records."""
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        facts = {
            "processor": platform.machine(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "accelerator": gpu,
            "prepacked": False,
            "runner": "V2" if self.use_v2_model_runner else "V1",
            "tensor_parallel": self.parallel_config.tensor_parallel_size,
            "compiled": self.compilation_config.mode != CompilationMode.NONE,
        }
        return sorted(map(str, self.steering.sites)), self.model_config.get_hidden_size(), facts

    def steerkit_rows(
        self,
        rows: Mapping[str, Mapping[str, Any]],
        decoder: Sequence[tuple[str, int, bytes]] = (),
        kept: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Set the rows of policies that requests may name, the decoder rows in place of the set's own, and more sites
        to keep."""
        wanted = {name: unpacked_wanted(row) for name, row in rows.items()}
        sites = {name: [Site.of(site) for site in some] for name, some in (kept or {}).items()}
        self.steering.set_rows(wanted, unpacked_decoder(decoder), sites)

    def steerkit_errors(self, lengths: Mapping[str, int]) -> dict[str, tuple[str, str]]:
        """Errors of requests, of which so many tokens must have been steered: what could not be chosen, and why they
        were not steered. Those without either are left out."""
        found = {
            request: (self.choosing.error(request), self.steering.error(request, length))
            for request, length in lengths.items()
        }
        return {request: errors for request, errors in found.items() if any(errors)}

    def steerkit_decided(self, requests: Sequence[str]) -> dict[str, list[Decided | Asks]]:
        """Who decided the tokens of requests, since they were asked for last."""
        return self.choosing.decided(requests)

    def steerkit_watched(self, request: str, start: int) -> dict[str, bytes]:
        """Watched values of a request that runs."""
        return {key: packed_values(values) for key, values in self.steering.watched(request, start).items()}

    def steerkit_traces(self, extents: Sequence[tuple[str, int, int, int]]) -> list[dict[str, Any]]:
        """Traces of requests: by length, and by the first and last position whose strongest features are wanted."""
        asked = [(request, Extent(length, Span(start, end))) for request, length, start, end in extents]
        return [packed_trace(trace) for trace in self.steering.traces(asked)]

    def steerkit_activations(self, asked: Sequence[tuple[str, Sequence[int]]], sites: Sequence[str]) -> bytes:
        """Activations of requests at their steps, in float32; the requests are forgotten."""
        found = self.steering.activations(asked, [Site.of(site) for site in sites])
        return found.contiguous().numpy().tobytes()

    def steerkit_forget(self, requests: Sequence[str]) -> None:
        """Forget requests."""
        self.steering.forget(requests)
        self.choosing.forget(requests)


def _end_after(owner: int) -> None:
    """End this process, and vLLM's above it, once the process that has the requests is gone; they would stay."""
    with suppress(NoSuchProcess):
        found = Process(owner)
        while found.is_running() and found.status() != STATUS_ZOMBIE:
            time.sleep(1.0)
    if (above := os.getppid()) not in (owner, 1):
        os.kill(above, signal.SIGKILL)
    os._exit(1)


def _installed(worker: Any, tokenizer: Tokenizer) -> WorkerSteering:
    """The steering of a worker, hooked into its loaded model.

    Raises:
        SteerkitError: the worker runs the model in a way that steering cannot follow.
    """
    config, model = worker.vllm_config, worker.model_runner.get_model()
    _check(config)
    sites, wanted = find_sites(model), config.additional_config[KEY]
    hooked = [site for site in sites.modules if "vllm" in TABLE[site.point].engines]
    compiled = config.compilation_config.mode != CompilationMode.NONE
    saes = None if wanted["saes"] is None else load_set(Path(wanted["saes"]))
    steering = WorkerSteering(hooked, saes, worker.device, place_machine(tokenizer), copies=compiled)
    config.compilation_config.static_forward_context[KEY] = steering
    for site in hooked:
        sites.hook(site, partial(_on_pass, steering, site, str(site)))
    _follow(worker, steering, worker.choosing)
    return steering


def _on_pass(steering: WorkerSteering, site: Site, name: str, y: Tensor) -> Tensor | None:
    if torch.compiler.is_compiling():
        found: Tensor = steer(y, name)
        return found
    return steering.steer(site, y)


def _check(config: Any) -> None:
    """Refuse ways to run a model that steering cannot follow."""
    parallel = config.parallel_config
    for name in ("pipeline_parallel_size", "data_parallel_size"):
        if (size := getattr(parallel, name)) != 1:
            raise ModelError(f"vllm: {name}: got {size}, expected 1: steerkit's worker runs all layers so far")
    if config.compilation_config.cudagraph_mode not in (None, CUDAGraphMode.NONE):
        raise ModelError("vllm: CUDA graphs replay what ran once, so steering would stand still: give enforce_eager")
    for name in ("speculative_config", "lora_config", "kv_transfer_config"):
        if getattr(config, name) is not None:
            raise ModelError(f"vllm: {name}: steerkit's worker does not follow it so far; leave it out")


def _follow(worker: Any, steering: WorkerSteering, choosing: Choosing) -> None:
    """Tell steering of each pass, just before the model runs: its requests in order, and its tokens; and have the next
    tokens chosen from the logits after it."""
    runner = worker.model_runner

    def begin(order: Sequence[str], ids: Tensor | None) -> None:
        steering.begin(order, ids)
        choosing.begin(order)

    def forward(*_: Any, input_ids: Tensor | None = None, **__: Any) -> None:
        batch = runner.input_batch
        begin(batch.req_ids[: batch.num_reqs], input_ids)

    if worker.use_v2_model_runner:
        _before(runner.model_state, "prepare_inputs", lambda batch, *_: begin(batch.req_ids, batch.input_ids))
    else:
        _before(runner, "_model_forward", forward)
    model = runner.get_model()
    logits_of = model.compute_logits

    def chosen(*args: Any, **named: Any) -> Any:
        logits = logits_of(*args, **named)
        choosing.choose(logits)
        return logits

    model.compute_logits = chosen


def _before(owner: Any, name: str, act: Callable[..., None]) -> None:
    """Call a function before each call of a method, with its arguments."""
    method = getattr(owner, name)

    def both(*args: Any, **named: Any) -> Any:
        act(*args, **named)
        return method(*args, **named)

    setattr(owner, name, both)


def _announce(steering: WorkerSteering, choosing: Choosing, scheduled: Any) -> None:
    """Tell which requests came, which are done, and what the coming pass computes."""
    steering.leave(scheduled.finished_req_ids)
    start = {}
    for one in scheduled.scheduled_new_reqs:
        asked = (one.sampling_params.extra_args or {}) if one.sampling_params is not None else {}
        choice = asked.get(CHOICE) or {}
        steering.arrive(one.req_id, asked.get(KEY), choice.get("prompt_length", one.prompt_len))
        choosing.arrive(one.req_id, choice, one.prompt_len)
        start[one.req_id] = one.num_computed_tokens
    known = scheduled.scheduled_cached_reqs
    start |= zip(known.req_ids, known.num_computed_tokens, strict=True)
    lengths = scheduled.num_scheduled_tokens
    steering.schedule({request: Scheduled(start[request], length) for request, length in lengths.items()})
    choosing.schedule({request: start[request] + length for request, length in lengths.items()})
