"""Steers transformers' continuous batching: each request of `generate_batch` under policies of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from steerkit.chat import PlaceMachine
from steerkit.errors import SteeringError
from steerkit.sites import Site
from steerkit.steer.compile.plan import Plan
from steerkit.steer.eager.attach import check_sites
from steerkit.steer.points import device_of, find_sites
from steerkit.steer.ragged import Piece, RaggedRecorders, RaggedSteering

_UNSHARED: Final = "give ContinuousBatchingConfig(allow_block_sharing=False), and one reply per request"


@contextmanager
def attach_ragged(
    model: nn.Module,
    plan: Plan,
    rows: Mapping[str, int],
    *,
    trace: Iterable[Site | int] = (),
    places: PlaceMachine | None = None,
) -> Iterator[RaggedRecorders]:
    """Steer `generate_batch` and `init_continuous_batching` of a transformers model inside the `with`.

    Args:
        model: a decoder with the hook points that the plan uses.
        plan: compiled policies.
        rows: table row of each request, by its id; `generate_batch` numbers its prompts `req_0`, `req_1`, ….
        trace: sites whose raw activations to record of every request, besides those that policies edit.
        places: the tokenizer's place machine; needed where a rule's place follows from tokens.

    Yields:
        The recorders, one for each request; `read_traces` reads them as those of `attach`. Take each request's when it
        is done, as it is kept until then.

    Raises:
        SteeringError: the model lacks a site, or a rule needs its last prompt token alone; at the end of the `with`,
            the first error of the thread that generates, a hook that did not run in every pass, or a manager that
            still runs.
    """
    sites = find_sites(model)
    run = _Continuous(plan, rows, device_of(sites.body) or torch.device("cpu"), places, trace)
    check_sites("continuous batching", sites, run.steering.sites, plan)
    owner: Any = sites.generates if sites.generates is not None else model
    with ExitStack() as stack:
        stack.callback(sites.body.register_forward_pre_hook(run.begin, with_kwargs=True).remove)
        for site in run.steering.sites:
            stack.callback(sites.hook(site, partial(run.on_pass, site)).remove)
        stack.enter_context(run.seeing(owner))
        yield run.steering.recorders
    run.check()


class _Continuous:
    """The hooks of one `attach_ragged`, and the managers that were made inside it."""

    def __init__(
        self,
        plan: Plan,
        rows: Mapping[str, int],
        device: torch.device,
        places: PlaceMachine | None,
        trace: Iterable[Site | int],
    ) -> None:
        self._rows, recorders = rows, RaggedRecorders(plan, trace)
        self.steering = RaggedSteering(plan, device, self._row, places, recorders, _UNSHARED)
        self._managers: list[Any] = []
        self._passes, self._fired = 0, dict.fromkeys(self.steering.sites, 0)
        self._error: Exception | None = None
        """The first one; transformers only logs what is raised in its thread."""

    @contextmanager
    def seeing(self, owner: Any) -> Iterator[None]:
        """See every manager that the model makes inside the `with`."""
        make, own = owner.init_continuous_batching, owner.__dict__.get("init_continuous_batching")

        def seen(*args: Any, **given: Any) -> Any:
            manager = make(*args, **given)
            config = manager.continuous_batching_config
            compiled = (config.varlen_compile_config, config.decode_compile_config)
            if any(config.cuda_graph_booleans) or config.use_async_batching or any(compiled):
                raise SteeringError(
                    "continuous batching is steered by hooks that run in every pass: give "
                    "ContinuousBatchingConfig(use_cuda_graph=False, use_async_batching=False), and no compile config"
                )
            self._managers.append(manager)
            return manager

        owner.init_continuous_batching = seen
        try:
            yield
        finally:
            del owner.init_continuous_batching
            if own is not None:
                owner.init_continuous_batching = own

    def check(self) -> None:
        """Raise SteeringError for the first thing that went wrong."""
        running = [manager for manager in self._managers if manager.is_running()]
        for manager in running:
            manager.stop(hard_stop=True)
        if self._error is not None:
            raise self._error
        if running:
            raise SteeringError(
                "the `with` was left while continuous batching still ran; it was stopped, as the rest would not have "
                "been steered: stop the manager inside the `with`"
            )
        if silent := [str(site) for site, count in self._fired.items() if count != self._passes]:
            raise SteeringError(f"{', '.join(silent)}: the hook did not run in all of the {self._passes} passes")

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first layer: find out whose the tokens of this pass are."""
        try:
            processor = self._processor(kwargs.get("cache"))
            alive = processor.scheduler.active_requests.keys() | processor.scheduler.waiting_requests.keys()
            self.steering.keep(alive)
            futures = processor.inputs_and_outputs.requests_in_batch
            tokens = args[0] if args else kwargs["input_ids"]
            self._passes += 1
            self.steering.begin([_piece(one.state, one.query_length) for one in futures], tokens[0])
        except Exception as error:
            self._error = self._error or error
            raise

    def on_pass(self, site: Site, y: Tensor) -> Tensor | None:
        """The hook of one site."""
        self._fired[site] += 1
        try:
            return self.steering.steer(site, y)
        except Exception as error:
            self._error = self._error or error
            raise

    def _processor(self, cache: object) -> Any:
        for manager in self._managers:
            if cache is not None and getattr(manager.batch_processor, "cache", None) is cache:
                return manager.batch_processor
        raise SteeringError("a forward pass ran that is none of continuous batching made inside the `with`; use attach")

    def _row(self, request: str) -> int:
        if request not in self._rows:
            raise SteeringError(f"request {request}: no table row was given for it; give rows={{…}} by request id")
        return self._rows[request]


def _piece(state: Any, length: int) -> Piece:
    """The tokens of a request in the pass that is prepared: its offset stands after them already."""
    prompt = state._true_initial_tokens or len(state.initial_tokens)
    return Piece(state.request_id, state.position_offset - length, length, prompt)
