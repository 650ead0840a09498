"""The capacity of static buffers, and a plan packed into slices of it, one for each row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from steerkit.errors import SteeringError
from steerkit.sites import Site
from steerkit.steer.compile.gates import Leaf
from steerkit.steer.compile.plan import Plan, Rule

_SIZES: Final = ("features", "rules", "readings", "terms", "depth", "window")
_SITES: Final = ("read", "edited", "gated", "kept")


@dataclass(frozen=True, slots=True)
class Capacity:
    """The capacity of one request, the same for every request of a batch. A plan within it needs no new buffers."""

    features: int = 0
    """Features that a site reads or edits."""
    rules: int = 0
    """Rules, and one more: column 0 stands for none."""
    readings: int = 0
    """Readings of gates."""
    terms: int = 0
    """Alternatives of gates."""
    depth: int = 0
    """Rules that may edit one feature at one token."""
    window: int = 0
    """Tokens over which a reading may go."""
    read: frozenset[Site] = frozenset()
    """Sites at which features are read."""
    edited: frozenset[Site] = frozenset()
    """Sites that may be written."""
    gated: frozenset[Site] = frozenset()
    """Sites at which gates may be known."""
    kept: frozenset[Site] = frozenset()
    """Sites whose raw activations go on the recorder."""
    remembers: bool = False
    """True if gates may hold, latch, look back or act late."""

    @property
    def sites(self) -> list[Site]:
        """Sites with a hook."""
        return sorted(self.read | self.kept)

    def exceeds(self, other: Capacity) -> str | None:
        """The first size in which this is more than `other`, in words; None where it fits."""
        for name in _SIZES:
            mine, its = getattr(self, name), getattr(other, name)
            if mine > its:
                return f"{name}: got {mine}, expected at most {its}"
        for name in _SITES:
            mine, its = getattr(self, name), getattr(other, name)
            if mine - its:
                got, expected = (", ".join(map(str, sorted(some))) or "none" for some in (mine, its))
                return f"{name} sites: got {got}, expected some of {expected}"
        return "gates that remember: got some, expected none" if self.remembers and not other.remembers else None

    def joined(self, other: Capacity) -> Capacity:
        """The capacity that fits both."""
        sizes = {name: max(getattr(self, name), getattr(other, name)) for name in _SIZES}
        sites = {name: getattr(self, name) | getattr(other, name) for name in _SITES}
        return Capacity(**sizes, **sites, remembers=self.remembers or other.remembers)

    def rounded(self) -> Capacity:
        """A little more capacity, so that a plan of about the same size fits as well."""
        rules, readings, terms = map(_power, (self.rules, self.readings, self.terms))
        features, window = -(-self.features // 8) * 8, _power(self.window)
        return replace(self, features=features, rules=rules, readings=readings, terms=terms, window=window)


class KnownLeaf(NamedTuple):
    """A reading, and the site at which the gates are known that read it; those of another site read their own."""

    site: Site
    leaf: Leaf


@dataclass(frozen=True)
class PlanSlice:
    """One row's part of a plan, with numbers of its own."""

    columns: tuple[int, ...]
    """Its rules' columns in the plan; the first is its rule 1."""
    rules: tuple[Rule, ...]
    leaves: tuple[KnownLeaf, ...]
    terms: tuple[tuple[int, tuple[tuple[int, bool], ...]], ...]
    """The rule that each opens, and the readings that it wants, true or false."""
    places: Mapping[Site, tuple[int, ...]]
    """By site, the places of its features among those that the plan reads there."""


@dataclass(frozen=True)
class PackedPlan:
    """A plan packed into its rows' slices, for static buffers."""

    plan: Plan
    slices: tuple[PlanSlice, ...]
    """By row; nothing belongs to row 0."""
    leaves: tuple[KnownLeaf, ...]
    """All readings of the plan, in the order of its tables."""
    needs: Capacity
    """The least capacity that every row fits in."""


def pack_plan(plan: Plan, kept: Iterable[Site] = ()) -> PackedPlan:
    """A plan for static buffers, with the sites `kept` on the recorder besides those that it edits.

    Raises:
        SteeringError: it needs a complete dictionary or several devices, which static buffers do not have.
    """
    if (why := _unfit(plan)) is not None:
        raise SteeringError(f"{why}, so it cannot be steered over static buffers; use attach")
    held: dict[int, list[int]] = {}
    for column, rule in enumerate(plan.rules, start=1):
        held.setdefault(rule.row, []).append(column)
    slices = tuple(_plan_slice(plan, row, held.get(row, [])) for row in range(len(plan.rows) + 1))
    leaves: list[KnownLeaf] = []
    for _, gates in sorted(plan.gates.items()):
        leaves += _leaves(plan.rules[gates.rules.start - 1 : gates.rules.stop - 1])
    return PackedPlan(plan, slices, tuple(leaves), _needs(plan, slices, frozenset(kept)))


def _unfit(plan: Plan) -> str | None:
    for rule in plan.rules:
        if rule.reconstructs:
            return f"policy {rule.policy} steer '{rule.name}': write_back: reconstruction needs the whole dictionary"
    for site, table in plan.sites.items():
        if table.columns.whole is not None:
            return f"{site.name}: a TopK SAE needs the whole dictionary"
    devices = {table.columns.W_dec.device for table in plan.sites.values()}
    return "the model is spread over several devices" if len(devices) > 1 else None


def _plan_slice(plan: Plan, row: int, columns: Sequence[int]) -> PlanSlice:
    rules = tuple(plan.rules[column - 1] for column in columns)
    leaves = _leaves(rules)
    number = {known: n for n, known in enumerate(leaves)}
    terms = tuple(
        (n, tuple((number[KnownLeaf(rule.gate.site, leaf)], wanted) for leaf, wanted in term))
        for n, rule in enumerate(rules, start=1)
        if rule.gate is not None
        for term in rule.gate.terms
    )
    return PlanSlice(
        tuple(columns), rules, leaves, terms, {site: table.held[row] for site, table in plan.sites.items()}
    )


def _leaves(rules: Sequence[Rule]) -> tuple[KnownLeaf, ...]:
    """The readings of rules, each once, in the order of the plan's tables."""
    gates = [rule.gate for rule in rules if rule.gate is not None]
    return tuple(dict.fromkeys(KnownLeaf(gate.site, leaf) for gate in gates for leaf in gate.leaves))


def _needs(plan: Plan, slices: Sequence[PlanSlice], kept: frozenset[Site]) -> Capacity:
    if not plan.rules:
        return Capacity(kept=kept)
    read = frozenset(plan.sites)
    edited = frozenset(site for site, table in plan.sites.items() if table.editors is not None)
    return Capacity(
        features=max(len(places) for plan_slice in slices for places in plan_slice.places.values()),
        rules=max(len(plan_slice.columns) for plan_slice in slices) + 1,
        readings=max(len(plan_slice.leaves) for plan_slice in slices),
        terms=max(len(plan_slice.terms) for plan_slice in slices),
        depth=max(len(table.owner) for table in plan.sites.values()),
        window=max((known.leaf.window for plan_slice in slices for known in plan_slice.leaves), default=0),
        read=read,
        edited=edited,
        gated=frozenset(plan.gates),
        kept=kept | edited,
        remembers=plan.remembers,
    )


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length() if number > 1 else number
