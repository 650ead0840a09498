"""Makes the turns of prepared requests, all in one batch: under their policies, token by token, judged and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from steerkit.audit import Store
from steerkit.chat import Wire, place_machine
from steerkit.engine import Batch, Graphs, LoadedModel, PrefixCache, Sampling, generate
from steerkit.runtime.finish import finish_turns
from steerkit.runtime.prefix_key import pieces_of
from steerkit.runtime.request import Prepared
from steerkit.runtime.steps import sent
from steerkit.runtime.tripwire import Tripwires
from steerkit.sae import SaeSet
from steerkit.steer import Attached, Plan, attach, compile_plan, traced_sites
from steerkit.types import Turn


class Bench(NamedTuple):
    """What generations run on."""

    loaded: LoadedModel
    saes: SaeSet | None
    store: Store | None
    prefix_cache: PrefixCache | None
    graphs: Graphs | None


def generating(
    bench: Bench, prepared: Sequence[Prepared], stopped: Callable[[], bool] | None = None
) -> Generator[list[int | None], None, list[Turn]]:
    """Yield the tokens of each step; return the finished, recorded turns.

    Counterfactuals are rows of the same batch, after those that are asked for.
    """
    loaded, started = bench.loaded, time.perf_counter()
    rows = [*prepared, *(one.unsteered for one in prepared if one.unsteered is not None)]
    plan = compile_plan([one.policies for one in rows], bench.saes, loaded.site_devices)
    batch = Batch.of([one.prompt.ids for one in rows], Wire.of(loaded.tokenizer).pad, loaded.device)
    sampling = batch.within_context(loaded.model, [one.request.sampling for one in rows])
    width = batch.ids.shape[1]
    replies: list[list[int]] = [[] for _ in rows]
    with (
        loaded.alone(stopped),
        attach(
            loaded.model,
            plan,
            rows=[plan.row(one.policies) for one in rows],
            trace=traced_sites([one.wanted for one in rows], bench.saes),
            prompt_length=width,
            capacity=width + max(one.max_new_tokens for one in sampling),
            places=place_machine(loaded.tokenizer),
        ) as attached,
    ):
        recorder = attached.recorder
        tripwires = Tripwires(loaded, bench.saes, prepared, recorder)
        steps = _steps(bench, rows, batch, sampling, plan, attached)
        tokens = next(steps, None)
        while tokens is not None:
            for reply, token in zip(replies, tokens, strict=True):
                if token is not None:
                    reply.append(token)
            cut = tripwires.after(tokens)
            yield tokens[: len(prepared)]
            tokens = sent(steps, cut)
    seconds = round(time.perf_counter() - started, 6)
    return finish_turns(loaded, bench.saes, bench.store, rows, replies, recorder, plan, tripwires.tripped, seconds)


def _steps(
    bench: Bench, rows: Sequence[Prepared], batch: Batch, sampling: Sequence[Sampling], plan: Plan, attached: Attached
) -> Generator[Any, Any]:
    """The tokens of each step, under the hooks."""
    wire = Wire.of(bench.loaded.tokenizer)
    ends, reuse = pieces_of(rows, bench.loaded, bench.saes, attached, bench.prefix_cache)
    how: dict[str, Any] = {"split_prompt": plan.has_late_rules, "ends": ends, "reuse": reuse}
    how |= {"graphs": bench.graphs, "prefill_state": attached.prefill_state}
    return generate(bench.loaded.model, batch, sampling, wire.stops, wire.pad, **how)
