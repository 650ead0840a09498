"""Puts a plan on a model for the length of a `with`, for passes of any shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn

from steerkit.chat import PlaceMachine
from steerkit.errors import SteeringError
from steerkit.sites import Site
from steerkit.steer.batch import needs_tokens
from steerkit.steer.compile.latents import Vector
from steerkit.steer.compile.plan import Plan, SiteTable
from steerkit.steer.eager.attached import Attached, PrefillState, Snapshots
from steerkit.steer.eager.forward_pass import ForwardPass
from steerkit.steer.eager.watch import watching
from steerkit.steer.grammar_state import GrammarStates
from steerkit.steer.points import TABLE, EngineName, Sites, check_engine, context_of, device_of, find_sites
from steerkit.steer.positions import Positions
from steerkit.steer.record.recorder import Recorder


@contextmanager
def attach(
    model: nn.Module,
    plan: Plan,
    *,
    rows: Sequence[int] | None = None,
    trace: Iterable[Site | int] = (),
    prompt_length: int | None = None,
    capacity: int | None = None,
    places: PlaceMachine | None = None,
) -> Iterator[Attached]:
    """Steer every forward pass of `model` inside the `with`, and keep what the hooks see.

    Args:
        model: any transformers decoder with the hook points that the plan uses.
        plan: compiled policies.
        rows: table row of each request of the batch (default: the plan's first row for all, or the identity).
        trace: sites whose raw activations to keep, besides those the plan edits.
        prompt_length: columns of the padded prompt; needed only where a loop of one's own feeds it in chunks.
        capacity: columns to reserve on the recorder.
        places: the tokenizer's place machine; needed where a rule's place is read from tokens.

    Raises:
        SteeringError: the model lacks a site or its width differs from the SAE's; a way to generate that cannot be
            followed; at the end of a `with` that raised nothing, a hook that did not run in every forward pass, or a
            `generate` that still runs in another thread.
        ModelError: a prompt is longer than the model's context.
    """
    sites, kept = find_sites(model), {Site.of(one) for one in trace}
    hooked = sorted({*plan.sites, *kept})
    check_sites("transformers", sites, hooked, plan)
    editors = {site: table.editors for site, table in plan.sites.items() if table.editors is not None}
    recorder = Recorder({*kept, *editors}, hooked, editors, capacity)
    rows = [1 if plan.rows else 0] if rows is None else list(rows)
    knows = {"remembers": _remembering(plan), "asks": _asking(plan)}
    at = device_of(sites.body) or torch.device("cpu")
    positions = Positions(
        rows, at, prompt_length, grammar_states=_grammar_states(plan, places), context=context_of(model), **knows
    )
    run = ForwardPass(plan, recorder, positions)
    put_on = partial(_put_on, sites, run, {site: plan.sites.get(site) for site in hooked})
    with ExitStack() as stack:
        put_on(stack)
        prefill_state = PrefillState(plan, recorder, positions, run.steering.gate_states, run.pause, stack.close)
        snapshots = Snapshots(recorder, positions, run.steering.gate_states)
        yield Attached(recorder, snapshots, prefill_state, partial(_without, stack, put_on))
    recorder.check()


def _put_on(sites: Sites, run: ForwardPass, tables: Mapping[Site, SiteTable | None], stack: ExitStack) -> None:
    stack.callback(sites.body.register_forward_pre_hook(run.begin, with_kwargs=True).remove)
    for site, table in tables.items():
        stack.callback(sites.hook(site, run.hook(site, table)).remove)
    stack.enter_context(watching(sites, run))


@contextmanager
def _without(stack: ExitStack, put_on: Callable[[ExitStack], None]) -> Iterator[None]:
    stack.close()
    yield  # after an error nothing is put back
    put_on(stack)


def _remembering(plan: Plan) -> str | None:
    """The first rule that needs every token once and in order, as an error would name it."""
    for rule in plan.rules:
        remembers = rule.gate is not None and (rule.gate.remembers or rule.late)
        if remembers or needs_tokens([rule.place, rule.reads_at]):
            return f"policy {rule.policy} steer '{rule.name}'"
    return None


def _asking(plan: Plan) -> str | None:
    """The first rule that asks where the prompt ends, as an error would name it."""
    for rule in plan.rules:
        if {rule.place, rule.reads_at} != {"any"}:
            return f"policy {rule.policy} steer '{rule.name}'"
    return None


def _grammar_states(plan: Plan, machine: PlaceMachine | None) -> GrammarStates | None:
    for rule in plan.rules:
        if needs_tokens([rule.place, rule.reads_at]):
            if machine is None:
                raise SteeringError(
                    f"policy {rule.policy} steer '{rule.name}': its place is read from tokens; give tokenizer=…"
                )
            return GrammarStates(machine)
    return None


def check_sites(engine: EngineName, sites: Sites, hooked: Sequence[Site], plan: Plan) -> None:
    """Raise SteeringError for a site that engine or model does not have, or whose width differs from the SAE's."""
    check_engine(engine, hooked)
    for site in hooked:
        table = plan.sites.get(site)
        vectors = [one for one in table.latents if isinstance(one, Vector)] if table else []
        named = f"{vectors[0].named}: " if vectors else ""
        try:
            width = sites.width(site)
        except SteeringError as error:
            raise SteeringError(f"{named}{error}") from None
        if table is not None and width is not None and table.columns.width != width:
            row = TABLE[site.point]
            what, expected = ("SAE reads", "SAEs trained") if table.sae else ("vector has", "a direction made")
            raise SteeringError(
                f"{named}layer {site.layer}: the {what} width {table.columns.width}, the model's {row.what} {row.does} "
                f"{width}; expected {expected} on this model"
            )
