"""What the hooks do in a forward pass: find where its tokens stand, read, gate and write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from steerkit.errors import SteeringError
from steerkit.steer.compile.gates import GateTable
from steerkit.steer.compile.plan import Plan, SiteTable
from steerkit.steer.eager.gate_state import GateState
from steerkit.steer.eager.gather import Acting, Lanes, lanes_of
from steerkit.steer.eager.window import Window
from steerkit.steer.points import described
from steerkit.steer.positions import Positions
from steerkit.steer.record.recorder import Recorder
from steerkit.types import Place, Site


class ForwardPass:
    """State of the forward pass that is running: which tokens its rules may touch and which gates are open."""

    def __init__(self, plan: Plan, recorder: Recorder, positions: Positions) -> None:
        self.plan, self.recorder, self.positions = plan, recorder, positions
        self.owned, self.bias = plan.owned.to(positions.device), plan.bias.to(positions.device)
        self.writes = None if all(rule.writes for rule in plan.rules) else plan.writes.to(positions.device)
        self.places = sorted({place for rule in plan.rules for place in (rule.place, rule.reads_at)})
        self.writes_at = self._places_of([rule.place for rule in plan.rules])
        self.reads_at = self._places_of([rule.reads_at for rule in plan.rules])
        self.gate_states = {site: GateState(table) for site, table in plan.gates.items()}
        late = torch.tensor([False, *(rule.late for rule in plan.rules)])
        self.late = late.to(positions.device) if plan.has_late_rules else None
        self.remembers = plan.remembers
        self.window: Window | None = None
        self.paused = False
        """Whether the hooks do nothing, while passes run that are none of the generation's."""
        self.running: int | None = None
        """The thread in which a `generate` runs, if one is seen."""
        self.closed = self.stopped = False
        """Whether steering came off while that still ran, and whether it was stopped for it."""
        self.thread = self.owner = threading.get_ident()
        """The threads of the pass that runs, and of whoever attached."""
        self.active = False
        """Whether any rule may read or touch a token of this pass."""
        self.first = 0
        """Offset of the first token that a rule may read or touch; N below counts tokens from here on."""
        self._steady: object = None
        """What the places of the last pass followed from, if the next may have the same."""
        self.at = self.allowed = self.may = self.both = torch.empty(0)
        """Tokens by place `(B, T, P)`, rules by the places where they write, where their gates are read, and where
        both is so `(N, R)`."""
        self.numbers = self.sums = self.opened = torch.empty(0)
        """Token numbers `(B, T)`, sums of readings so far `(N, L)`, and rules that are open `(N, R)`, those without a
        gate from the start."""
        self._lanes: dict[Site, Lanes] = {}
        self._lanes_for: list[int] = [] if positions.uniform is None else [positions.uniform]
        """Table rows of the sequences that they were made for."""
        self._acting: dict[Site, Acting] = {}
        """By site, what is done while places stay as they are."""
        self._limits: dict[Site, Tensor] = {}
        """By site with simple gates, what their readings must be above `(N, r)`: infinity where they may not open."""

    def _places_of(self, places: Sequence[Place]) -> Tensor:
        numbers = [0, *(self.places.index(place) for place in places)]
        return torch.tensor(numbers, device=self.positions.device)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Let passes run that are none of the generation's."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """A copy of the model would keep this steering for ever."""
        raise SteeringError("the model is copied or saved while steering is attached to it; do so outside the `with`")

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first layer: find out where the tokens stand and which rules they allow."""
        if self.paused:
            return
        if self.closed:
            self._stop()
            return
        self._check_way(kwargs)
        tokens = args[0] if args else kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs["inputs_embeds"]
        before, self.window = self.window, None
        window = self.positions.next(tokens, kwargs)
        self.window = window
        self.recorder.begin_pass(window)
        if self.gate_states:
            self._roll_back(window, before)
        self.active = any(window.reaches(place) for place in self.places)
        if not self.active:
            return
        steady = window.steady
        if steady is None or steady != self._steady:
            self._place(window)
            self._acting, self._limits = {}, {}
        self._steady = steady
        self.opened = self.allowed
        if self.gate_states:
            self.opened = self.allowed.clone()
            self.sums = self.bias.expand(len(self.opened), -1).clone()
        if self.remembers:
            self.numbers = window.numbers[:, self.first :]
        if self.late is not None:
            self._open_late(window, self.late)
        self.recorder.keep_open(
            self.opened.view(len(window.rows), -1, self.opened.shape[-1]), window.start + self.first
        )

    def _check_way(self, kwargs: dict[str, Any]) -> None:
        """Refuse passes that cannot be followed."""
        here = self._here()
        if self.running not in (None, here):
            raise SteeringError("two threads run the model at once while steering is attached; attach in turn")
        self.thread = here
        if kwargs.get("cu_seq_lens_q") is not None:
            raise SteeringError("sequences came packed into one row; steering cannot follow: give a padded batch")

    def _stop(self) -> None:
        """Stop the generation that still runs now that steering came off; other passes are nobody's here."""
        if self.running == self._here():
            self.stopped = True
            raise SteeringError("the `with` of `attach` was left while generate ran; its rest would not be steered")

    def _here(self) -> int:
        """The thread that runs; `torch.compile` cannot ask."""
        return self.thread if torch.compiler.is_compiling() else threading.get_ident()

    def _roll_back(self, window: Window, before: Window | None) -> None:
        """Let gates remember what came before this pass, without drafts that were not taken."""
        for memory in self.gate_states.values():
            if window.start == 0:
                memory.forget()
            elif window.kept is not None and before is not None:
                valid = None if before.valid is None else before.valid[:, : window.kept]
                ends = replace(before, width=window.kept, valid=valid).ends(self.first)
                memory.roll_back(window.kept - self.first, ends)
            memory.begin_pass()

    def _place(self, window: Window) -> None:
        """Find out which rules the places of the tokens allow."""
        self.first = window.first(self.places)
        self.at = torch.stack([window.at(place)[:, self.first :] for place in self.places], dim=-1)
        uniform = self.positions.uniform is not None
        rows = window.rows[:1] if uniform else window.rows.repeat_interleave(window.width - self.first)
        owned, at = self.owned[rows], self.at.flatten(0, 1)
        self.allowed = owned & at[:, self.writes_at]
        if self.gate_states:
            self.may = owned & at[:, self.reads_at]
            self.both = self.may & self.allowed

    def hook(self, site: Site, table: SiteTable | None) -> Callable[[Tensor], Tensor | None]:
        """The hook of one site: copy, read, gate, write."""
        return partial(self._on_pass, site, table)

    def _on_pass(self, site: Site, table: SiteTable | None, y: Tensor) -> Tensor | None:
        if self.paused:
            return None
        if self.window is None:
            raise SteeringError(f"{described(site)} ran outside a forward pass of the decoder")
        if self.thread != self._here():
            raise SteeringError("two threads run the model at once while steering is attached; attach in turn")
        self.recorder.fired[site] += 1
        if self.recorder.fired[site] > self.recorder.forwards:
            raise SteeringError(
                f"{described(site)} ran twice in one pass, as with gradient checkpointing; switch it off"
            )
        if site in self.recorder.kept:
            # What is edited is ours alone: the model goes on with another tensor.
            ours = self.active and table is not None and table.editors is not None
            self.recorder.keep_raw(site, y, self.window.start, ours=ours)
        if table is None or not self.active:
            return None
        if torch.is_autocast_enabled(y.device.type):  # steering computes in float32, whatever the model does
            with torch.autocast(y.device.type, enabled=False):
                return self._steer(table, y, self.window)
        return self._steer(table, y, self.window)

    def _steer(self, table: SiteTable, y: Tensor, window: Window) -> Tensor | None:
        """The output with its edits, or None where this site is only read."""
        lanes = self._lanes_at(table, window)
        reached = y[:, self.first :] if self.first else y
        given = reached.reshape(lanes.sharing, -1, y.shape[-1])
        x = given.float()
        features = lanes.read(x)
        if lanes.gates is not None:
            self.sums = self.sums.to(y.device)
            lanes.weigh(features, self.sums)
        if table.site in self.gate_states:
            self._open(table.site, window, reached.shape[:2])
        if table.editors is None:
            return None
        out = lanes.write(given, x, features, self._acting_at(table, lanes, y.device)).view_as(reached)
        return torch.cat([y[:, : self.first], out], dim=1) if self.first else out

    def _acting_at(self, table: SiteTable, lanes: Lanes, device: torch.device) -> Acting:
        """What the open rules do at a site; where no gate is read, the same as long as the places are."""
        found = self._acting.get(table.site)
        if found is None:
            opened = self.opened.to(device)
            if self.writes is not None:
                opened = opened & self.writes.to(device)
            found = lanes.acting(opened)
            if self._steady is not None and not self.gate_states:
                found = self._acting[table.site] = found.looked_at()
        return found

    def _lanes_at(self, table: SiteTable, window: Window) -> Lanes:
        """A site's tables for the sequences of this pass, made when they change: beams come with the first of them."""
        if self.positions.uniform is None and len(window.rows) != len(self._lanes_for):
            self._lanes, self._lanes_for = {}, window.rows.tolist()
        found = self._lanes.get(table.site)
        if found is None:
            found = self._lanes[table.site] = lanes_of(table, self._lanes_for)
        return found

    def _open(self, site: Site, window: Window, shape: torch.Size) -> None:
        """Read the gates that are known at this site, and open their rules."""
        memory, device = self.gate_states[site], self.sums.device
        table, opened = memory.table, self.opened[:, memory.table.rules]
        sums = self.sums[:, table.leaves]
        if table.simple:
            torch.gt(sums.to(opened.device), self._limits_at(site, table), out=opened)
            return
        sums = sums.view(*shape, -1)
        counts = sums[..., :0]
        if table.windows or table.off is not None:
            at = [self.places.index(place or self.places[0]) for place in table.counts_at]
            counts = self.at.to(device)[..., at]
        holds = memory.read(sums, counts, window.ends(self.first).to(device) if table.windows else counts)
        if not table.remembers:
            torch.logical_and(holds.flatten(0, 1).to(opened.device), self.both[:, table.rules], out=opened)
            return
        holds = holds & self.may[:, table.rules].to(device).view_as(holds)
        holds = memory.keep(holds, self.numbers.to(device)).flatten(0, 1)
        fresh = holds & self.allowed[:, table.rules].to(device)
        if self.late is not None:  # those were opened before the pass, by what earlier tokens showed
            late = self.late[table.rules].to(device)
            fresh = torch.where(late, opened.to(device), fresh)
        opened.copy_(fresh)

    def _limits_at(self, site: Site, table: GateTable) -> Tensor:
        found = self._limits.get(site)
        if found is None:
            may = self.both[:, table.rules]
            found = self._limits[site] = torch.where(may, table.low.to(may.device), torch.inf)
        return found

    def _open_late(self, window: Window, late: Tensor) -> None:
        """Open the rules whose gates read later sites than they edit, by what earlier passes showed."""
        if window.width > 1 and bool(self.allowed[:, late].any()):
            rule = next(rule for rule in self.plan.rules if rule.late)
            raise SteeringError(
                f"policy {rule.policy} steer '{rule.name}': its gate reads a higher layer than it edits and acts from "
                f"the next token on, so the last prompt token must be fed alone; use steerkit's runtime, or feed the "
                f"prompt in two parts and give prompt_length"
            )
        for memory in self.gate_states.values():
            columns = memory.table.rules
            held = memory.remembered(self.numbers).flatten(0, 1).to(self.opened.device)
            self.opened[:, columns] = torch.where(late[columns], self.allowed[:, columns] & held, False)
