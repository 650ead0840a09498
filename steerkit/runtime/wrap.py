"""Steering around anybody's own `model.generate(...)` call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from steerkit import steer
from steerkit.chat import Tokenizer, place_machine
from steerkit.policy import Policy, resolve
from steerkit.runtime.keywords import clear
from steerkit.runtime.policies import PolicyLike, read_policies
from steerkit.sae import SaeSet, load_set


@clear
@contextmanager
def attach(
    model: nn.Module,
    saes: SaeSet | str | Path,
    policy: PolicyLike | None = None,
    *,
    rows: Sequence[PolicyLike] | None = None,
    trace: Sequence[int] = (),
    prompt_length: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> Iterator[steer.Tape]:
    """Steer every forward pass of a transformers model inside the `with`: `generate`, sampling, beams, plain calls.

    Args:
        model: a decoder with `layers.N.self_attn.o_proj`, such as Gemma 3.
        saes: its SAEs, a folder or a hub repository.
        policy: for all sequences of the batch; its guard and trace sections need `steerkit.load`.
        rows: instead, one policy (or an empty tuple) per request of the batch.
        trace: layers whose activations to keep on the tape.
        prompt_length: columns of the padded prompt, where it is fed in chunks; else the first pass over an empty
            cache is the prompt.
        tokenizer: needed where a rule's place is read from tokens, such as `tool_result` or `call.name`.

    Yields:
        The tape: what the hooks saw.

    Raises:
        PolicyError, SaeError, SteeringError: what cannot be honoured, before the body runs; and after it, a hook that
            did not run in every forward pass.
    """
    suite = saes if isinstance(saes, SaeSet) else load_set(saes)
    requests = [_resolved(one, suite) for one in ([policy or ()] if rows is None else rows)]
    sites = steer.find_sites(model).outputs
    devices = {layer: next(site.parameters()).device for layer, site in sites.items()}
    plan = steer.compile_plan(requests, suite, devices)
    numbers = [plan.row(request) for request in requests]
    places = None if tokenizer is None else place_machine(tokenizer)
    with steer.attach(model, plan, rows=numbers, trace=trace, prompt_length=prompt_length, places=places) as tape:
        yield tape


def _resolved(policy: PolicyLike, saes: SaeSet) -> tuple[Policy, ...]:
    return tuple(resolve(item, saes.statistic) for item in read_policies(policy))
