"""Puts a plan on a model for the length of a `with`. The only file that registers hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.errors import SteeringError
from steerkit.steer import ops
from steerkit.steer.layout import Layout, Window
from steerkit.steer.plan import Plan, SiteTable
from steerkit.steer.sites import find_sites
from steerkit.steer.tape import Tape


@contextmanager
def attach(
    model: nn.Module,
    plan: Plan,
    *,
    rows: Sequence[int] | None = None,
    trace: Iterable[int] = (),
    prompt_length: int | None = None,
    capacity: int | None = None,
) -> Iterator[Tape]:
    """Steer every forward pass of `model` inside the `with`, and keep what the hooks see.

    Args:
        model: any transformers decoder with `layers.N.self_attn.o_proj`.
        plan: compiled policies.
        rows: table row of each request of the batch (default: the plan's first row for all, or the identity).
        trace: layers whose raw activations to keep, besides those the plan edits.
        prompt_length: columns of the padded prompt; needed only where it is fed in chunks.
        capacity: columns to reserve on the tape.

    Raises:
        SteeringError: the model lacks a site or its width differs from the SAE's; at the end of a `with` that raised
            nothing, a hook that did not run in every forward pass.
    """
    sites = find_sites(model)
    layers = sorted({*plan.sites, *trace})
    _check_sites(sites.outputs, layers, plan)
    edited = {layer for layer, table in plan.sites.items() if table.editors is not None}
    tape = Tape({*trace, *edited}, layers, capacity)
    device = next(sites.body.parameters()).device
    layout = Layout([1 if plan.rows else 0] if rows is None else list(rows), device, prompt_length)
    run = _Pass(plan, tape, layout)
    with ExitStack() as stack:
        stack.callback(sites.body.register_forward_pre_hook(run.begin, with_kwargs=True).remove)
        for layer in layers:
            hook = run.hook(layer, plan.sites.get(layer))
            stack.callback(sites.outputs[layer].register_forward_hook(hook).remove)
        yield tape
    tape.check()


class _Pass:
    """State of the forward pass that is running: which tokens its rules may touch and how far its gates have summed."""

    def __init__(self, plan: Plan, tape: Tape, layout: Layout) -> None:
        self.tape, self.layout = tape, layout
        parts = (plan.owned, plan.writes, plan.low, plan.high, plan.bias)
        self.owned, self.writes, self.low, self.high, self.bias = (part.to(layout.device) for part in parts)
        self.places = sorted({rule.place for rule in plan.rules})
        place_of = [0, *(self.places.index(rule.place) for rule in plan.rules)]
        self.place_of = torch.tensor(place_of, device=layout.device)
        self.window: Window | None = None
        self.active = False
        """Whether any rule may touch a token of this pass."""
        self.first = 0
        """Offset of the first token that a rule may touch; N below counts tokens from here on."""
        self.rows = self.allowed = self.sums = torch.empty(0)
        """`(N or 1,)` table rows, `(N, R)` rules by place, `(N, R)` gate sums so far."""

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first layer: find out where the tokens stand and which rules they allow."""
        tokens = args[0] if args else kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs["inputs_embeds"]
        batch, width = tokens.shape[:2]
        self.window = window = self.layout.next((batch, width), kwargs)
        self.tape.begin_pass(window)
        self.active = any(window.reaches(place) for place in self.places)
        if not self.active:
            return
        self.first = window.first(self.places)
        at = torch.stack([window.at(place)[:, self.first :] for place in self.places], dim=-1).flatten(0, 1)
        uniform = self.layout.uniform
        if uniform is None:
            self.rows = window.rows.repeat_interleave(width - self.first)
        else:
            self.rows = window.rows[:1]
        self.allowed = self.owned[self.rows] & at[:, self.place_of]
        self.sums = self.bias.expand_as(self.allowed)

    def hook(self, layer: int, table: SiteTable | None) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        """The forward hook of one site: copy, read, gate, write."""

        def on_output(module: nn.Module, args: Any, y: Tensor) -> Tensor | None:
            if self.window is None:
                raise SteeringError(f"layer {layer}: its o_proj ran outside a forward pass of the decoder")
            self.tape.fired[layer] += 1
            if layer in self.tape.kept:
                self.tape.keep_raw(layer, y, self.window.start)
            if table is None or not self.active:
                return None
            return self._steer(table, y, self.window.start + self.first)

        return on_output

    def _steer(self, table: SiteTable, y: Tensor, column: int) -> Tensor | None:
        """The output with its edits, or None where this site is only read."""
        reached = y[:, self.first :]
        flat = reached.reshape(-1, y.shape[-1])
        features = ops.read_features(flat, table.columns.W_enc, table.columns.b_enc)
        if table.gates is not None:
            self.sums = torch.addmm(self.sums.to(y.device), features, table.gates)
        if table.editors is None:
            return None
        allowed, sums, low, high, writes = (
            part.to(y.device) for part in (self.allowed, self.sums, self.low, self.high, self.writes)
        )
        opened = ops.open_rules(allowed & table.editors, sums, low, high)
        self.tape.keep_open(table.layer, opened.view(*reached.shape[:2], -1), column)
        out = _write(table, flat, features, opened & writes, self.rows.to(y.device)).view_as(reached)
        return out if self.first == 0 else torch.cat([y[:, : self.first], out], dim=1)


def _write(table: SiteTable, y: Tensor, features: Tensor, opened: Tensor, rows: Tensor) -> Tensor:
    """Activations `(N, d_in)` after the edits of the `opened` rules `(N, R)`."""
    on = opened.gather(1, table.owner[rows].expand(len(y), -1))
    numbers = (part[rows] for part in (table.scale, table.shift, table.floor, table.ceiling))
    change = ops.feature_change(features, on, *numbers)
    if table.reconstructs is None:
        return ops.write_delta(y, change, table.columns.W_dec)
    whole = (opened & table.reconstructs).any(dim=-1)
    out = ops.write_delta(y, change, table.columns.W_dec)
    return ops.write_reconstruction(y, out, whole, change, table.indices, table.sae)


def _check_sites(outputs: dict[int, nn.Module], layers: Sequence[int], plan: Plan) -> None:
    for layer in layers:
        if layer not in outputs:
            raise SteeringError(f"layer {layer}: the model has no such layer; it has layers 0 to {max(outputs)}")
        width = getattr(outputs[layer], "out_features", None)
        table = plan.sites.get(layer)
        if table is not None and width is not None and table.sae.d_in != width:
            raise SteeringError(
                f"layer {layer}: the SAE reads width {table.sae.d_in}, the model's o_proj writes {width}; "
                f"expected SAEs trained on this model"
            )
