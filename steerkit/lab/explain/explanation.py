"""The explanation of a call (see `steerkit.lab.explain.explain`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from steerkit.lab.explain.contrast import Contrast
from steerkit.lab.explain.feature_roles import Role
from steerkit.sites import Feature, Site
from steerkit.types import CallLike, Span


class Target(NamedTuple):
    """The part of a turn to explain."""

    call: int = 0
    """Its number in the reply, from 0."""
    argument: str | None = None
    """An argument, whose value is explained; None for the tool."""
    against: str | None = None
    """The declared tool to hold the chosen one against (default: the one that came closest)."""
    calling: bool = False
    """Explain that a call was made at all, against the likeliest other token; also where no other tool is declared."""


WHOLE: Final = Target()
"""The first call's tool."""


class Changed(NamedTuple):
    """The choice when features were taken away."""

    lost: float
    """Loss of the score, in log-odds; below 0 it grew."""
    token: str
    """The likeliest token then."""
    flips: bool
    """True if that is another token than without the edit."""


@dataclass(frozen=True)
class Reason:
    """One feature, and what it does for the choice."""

    feature: Feature
    label: str
    role: Role
    """Its estimated effect, the tokens at which it acts and the ones it reads."""
    ablated: Changed
    """At every token up to the choice."""
    at_choice: Changed
    """At the choice's own step alone."""
    control: Feature | None
    """A random feature of the same layer, active at the same token; None where no other is."""
    control_ablated: Changed | None
    """It in the feature's stead, at every token."""


@dataclass(frozen=True)
class Without:
    """The reply, generated again greedily, with some features taken away together."""

    features: tuple[Feature, ...]
    lost: float
    """Loss of the choice's score, in log-odds."""
    calls: tuple[CallLike, ...]
    text: str
    changes_call: bool
    """True if the reply no longer has the call with the same name and arguments."""


@dataclass(frozen=True)
class Explanation:
    """Why one call of a recorded turn was made."""

    record: str
    call: int
    choice: Contrast
    chosen: str
    other: str
    """The two tokens as text."""
    score: float
    """Log-odds of the chosen over the other token."""
    likeliest: bool
    """True if the chosen token is the likeliest of all; not so where sampling took another."""
    reproduced: bool
    """True if the model writes the recorded reply again, greedily."""
    steered: tuple[str, ...]
    """The rules that wrote in the turn, which act here as well, as `policy/rule`."""
    tokens: tuple[str, ...]
    """Tokens of prompt and reply, as text."""
    sources: tuple[str, ...]
    """The part of the conversation that each token belongs to."""
    layers: dict[Site, float]
    """By site, the estimated effects of all its features together."""
    reasons: tuple[Reason, ...]
    """The features without which most of the score would go, by estimate, the largest first."""
    opposing: tuple[Reason, ...]
    """Features without which it would grow most."""
    without: Without
    """All reasons taken away at every token."""
    without_at_choice: Without
    """At the choice's step alone."""
    controls: tuple[Without, ...]
    """Draws of as many random features, each of its reason's layer and active at its token."""
    controls_at_choice: tuple[Without, ...]
    growing: tuple[Without, ...]
    """The first 1, 2, 3, 5, … features by estimate, also more than are listed, at every token."""
    growing_controls: tuple[Without, ...]
    """Random sets of the same sizes, of the first draw."""
    forced: tuple[Span, ...] = ()
    """Tokens that a grammar chose and not the model."""

    @property
    def is_forced(self) -> bool:
        """True if a grammar made the choice: then the features say why the model leaned to it, and not why it came."""
        return self.grammar_chose(self.choice.position + 1)

    def grammar_chose(self, token: int) -> bool:
        """True if a grammar chose a token, and not the model."""
        return any(span.start <= token < span.end for span in self.forced)

    @property
    def turning(self) -> Without | None:
        """The smallest of these sets without which the call is another; None where none of them is enough."""
        return next((one for one in self.growing if one.changes_call), None)
