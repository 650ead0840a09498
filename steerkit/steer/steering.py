"""A plan over flat tokens: which rules their places allow, which gates are open, and what is written at a site."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steerkit.errors import SteeringError
from steerkit.sites import Site
from steerkit.steer.batch import COLUMN_PLACES, PADDING, Batch, TokenPlaces
from steerkit.steer.compile.plan import Plan, SiteTable
from steerkit.steer.gates import GateState
from steerkit.steer.gather import Gathered, OpenEdits, gather
from steerkit.types import Place


class Steering:
    """A plan over one forward pass after another: `place` and `begin` say what its tokens are, `steer` edits a site's.

    Shapes: N tokens of the pass that a rule may read or edit, P places, R rules, L readings.
    """

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.plan, self.device = plan, device
        self._owned, self._bias = plan.owned.to(device), plan.bias.to(device)
        self._writes = None if all(rule.writes for rule in plan.rules) else plan.writes.to(device)
        self.places = sorted({place for rule in plan.rules for place in (rule.place, rule.reads_at)})
        self._writes_at = self._numbers([rule.place for rule in plan.rules])
        self._reads_at = self._numbers([rule.reads_at for rule in plan.rules])
        self.gate_states = {site: GateState(table.gates) for site, table in plan.gates.items()}
        self._counts_at = {
            site: self._numbers([place or self.places[0] for place in table.counts_at])[1:]
            for site, table in plan.gates.items()
        }
        late = torch.tensor([False, *(rule.late for rule in plan.rules)])
        self._late = late.to(device) if plan.has_late_rules else None
        self._batch: Batch | None = None
        self._at = self._allowed = self._may = self._both = torch.empty(0)
        """Tokens by place `(N, P)`; rules by the places where they write, where their gates are read, and where both is
        so `(N, R)`."""
        self._sums = torch.empty(0)
        """`(N, L)` sums of the readings so far."""
        self.opened = torch.empty(0)
        """`(N, R)` open rules: those without a gate from the start, the others once theirs are read."""
        self._keeps_places = False
        """True while all passes have tokens at the same places."""
        self._rows: Sequence[int] = ()
        self._gathered: dict[Site, Gathered] = {}
        self._open_edits: dict[Site, OpenEdits] = {}
        """By site, while places stay as they are."""
        self._limits: dict[Site, Tensor] = {}
        """By site with simple gates, what their readings must be above `(N, r)`: infinity where they may not open."""

    def _numbers(self, places: Sequence[Place]) -> Tensor:
        """`(1 + places,)` numbers of places among all; the first stands for no rule."""
        return torch.tensor([0, *(self.places.index(place) for place in places)], device=self.device)

    def gather_for(self, rows: Sequence[int]) -> None:
        """Set the table rows of the groups of tokens in the coming passes, see `gather`."""
        if rows != self._rows:
            self._rows, self._gathered = rows, {}

    def place(self, batch: Batch, grammar: TokenPlaces | None, *, keeps: bool) -> None:
        """Find out which rules the places of a pass's tokens allow.

        Args:
            batch: the tokens.
            grammar: their places in the conversation; None where no rule asks.
            keeps: True if the next passes may come with `begin` alone, their tokens at the same places.
        """
        masks = [self._mask(place, batch, grammar) for place in self.places]
        self._at, owned = torch.stack(masks, dim=-1), self._owned[batch.row]
        self._allowed = owned & self._at[:, self._writes_at]
        if self.gate_states:
            self._may = owned & self._at[:, self._reads_at]
            self._both = self._may & self._allowed
        self._keeps_places, self._open_edits, self._limits = keeps, {}, {}

    def _mask(self, place: Place, batch: Batch, grammar: TokenPlaces | None) -> Tensor:
        if place in COLUMN_PLACES:
            return batch.at(place)
        assert grammar is not None  # whoever made the plan's passes was told of the places
        return grammar.at(place) & (batch.position > PADDING)

    def begin(self, batch: Batch) -> None:
        """Begin a pass whose places are known: open the rules that are open before any site has run."""
        self._batch, self.opened = batch, self._allowed
        if self.gate_states:
            self.opened = self._allowed.clone()
            self._sums = self._bias.expand(len(self.opened), -1).clone()
        if self._late is not None:
            self._open_late(batch, self._late)

    def steer(self, table: SiteTable, y: Tensor) -> Tensor | None:
        """The activations `(…, d_in)` of the pass's N tokens at a site with their edits; None where it is only read."""
        if torch.is_autocast_enabled(y.device.type):  # steering computes in float32, whatever the model does
            with torch.autocast(y.device.type, enabled=False):
                return self._steer(table, y)
        return self._steer(table, y)

    def _steer(self, table: SiteTable, y: Tensor) -> Tensor | None:
        found = self._gathered.get(table.site)
        if found is None:
            found = self._gathered[table.site] = gather(table, self._rows)
        given = y.reshape(found.sets, -1, y.shape[-1])
        x = given.float()
        features = found.read(x)
        if found.weights is not None:
            self._sums = self._sums.to(y.device)
            found.weigh(features, self._sums)
        if table.site in self.gate_states:
            self._open(table.site)
        if table.editors is None:
            return None
        return found.write(given, x, features, self._edits_at(table, found, y.device)).view_as(y)

    def _edits_at(self, table: SiteTable, gathered: Gathered, device: torch.device) -> OpenEdits:
        """The open edits of a site; without gates the same as long as the places are."""
        found = self._open_edits.get(table.site)
        if found is None:
            opened = self.opened.to(device)
            if self._writes is not None:
                opened = opened & self._writes.to(device)
            found = gathered.open(opened)
            if self._keeps_places and not self.gate_states:
                found = self._open_edits[table.site] = found.checked()
        return found

    def _open(self, site: Site) -> None:
        """Read the gates that are complete at a site, and open their rules."""
        table, device = self.plan.gates[site], self._sums.device
        opened = self.opened[:, table.rules]
        sums = self._sums[:, table.leaves]
        if table.gates.simple:
            torch.gt(sums.to(opened.device), self._limits_at(site), out=opened)
            return
        assert self._batch is not None  # a pass has begun
        counts = self._at[:, self._counts_at[site]].to(device) if table.counts else sums[:, :0]
        remembers = table.gates.remembers
        may = (self._may if remembers else self._both)[:, table.rules].to(device)
        fresh = self.gate_states[site].open(sums, counts, may, self._batch.to(device))
        if remembers:
            fresh = fresh & self._allowed[:, table.rules].to(device)
            if self._late is not None:  # those were opened before the pass, by what earlier tokens showed
                fresh = torch.where(self._late[table.rules].to(device), opened.to(device), fresh)
        opened.copy_(fresh)

    def _limits_at(self, site: Site) -> Tensor:
        found = self._limits.get(site)
        if found is None:
            table = self.plan.gates[site]
            may = self._both[:, table.rules]
            found = self._limits[site] = torch.where(may, table.gates.low.to(may.device), torch.inf)
        return found

    def _open_late(self, batch: Batch, late: Tensor) -> None:
        """Open the rules whose gates read later sites than they edit, by what earlier passes showed."""
        if batch.segments is not None and bool(self._allowed[:, late].any()):
            rule = next(rule for rule in self.plan.rules if rule.late)
            raise SteeringError(
                f"policy {rule.policy} steer '{rule.name}': its gate reads a higher layer than it edits and acts from "
                f"the next token on, so the last prompt token must be fed alone; use steerkit's runtime, or feed the "
                f"prompt in two parts and give prompt_length"
            )
        for site, state in self.gate_states.items():
            rules = self.plan.gates[site].rules
            held = state.held(batch.to(state.device)).to(self.opened.device)
            self.opened[:, rules] = torch.where(late[rules], self._allowed[:, rules] & held, False)
