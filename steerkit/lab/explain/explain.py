"""Why a recorded call was made: the features that it hangs on, each really taken away.

A choice is one step of the turn: the token that was taken, and the one that it was taken over (`contrast.py`).
Its score is the log-odds between the two. Attribution (`steerkit.lab.attribution`) estimates for every feature of every
layer how much of the score would go without it; the features that it ranks highest are then set to 0 as a policy would,
while the turn's own steering acts as it did, and the score is taken again.

A feature is taken away at every token that the model reads up to the choice, in the prompt and in the reply. That is
what a person means by "without it": what a feature knows of the prompt is read there, layers and tokens before the
choice, and attention has carried it on by then; at the choice's own step one would take away only what is read once
more. It is also what the attribution estimates, which sums a feature's effects over all tokens. Both are reported: in
the second, only the step that makes the choice is edited.

The control is a random feature of the same layer that is active at the token at which the feature acts most. A model
changes a little whatever is taken from it; only what goes beyond that is the feature's doing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steerkit.agent import Runtime
from steerkit.audit import RecordedTurn
from steerkit.chat import parse
from steerkit.errors import AuditError
from steerkit.lab.attribution import log_odds
from steerkit.lab.corpus import token_texts
from steerkit.lab.explain.contrast import Contrast, Written, call_contrast, tool_contrast, value_contrast, well_formed
from steerkit.lab.explain.explanation import WHOLE, Changed, Explanation, Reason, Target, Without
from steerkit.lab.explain.feature_roles import USUAL, Extent, Roles, roles_of
from steerkit.lab.explain.prompt_sources import sources
from steerkit.lab.explain.replayed_turn import ReplayedTurn
from steerkit.sites import Feature
from steerkit.types import CallLike, MalformedCall


def explain(runtime: Runtime, recorded: RecordedTurn, target: Target = WHOLE, extent: Extent = USUAL) -> Explanation:
    """Explain one call of a recorded turn, which is read as it was recorded, under its own steering.

    Args:
        runtime: on the model and SAEs that the turn was made with (`steerkit.runtime.load_recorded`).
        recorded: the turn.
        target: what of it.
        extent: how far to look.

    Raises:
        AuditError: there is no such call, argument or tool, or something that shaped the turn is not what it was.
        SaeError: the runtime has no SAEs.
    """
    turn = ReplayedTurn.of(runtime, recorded)
    tokenizer = turn.loaded.tokenizer
    call = _call(turn, recorded, target.call)
    written = Written(tokenizer, turn.ids, len(turn.prompt), turn.reply_logits())
    contrast = _contrast(written, call, recorded, target)
    owners = sources(tokenizer, turn.prompt, turn.reply)
    roles = _roles(turn, contrast, owners, extent)
    ablations = _Ablations(turn, contrast, call)
    reasons, opposing = _reasons(turn, ablations, roles)
    everywhere, at_choice = (_sets(ablations, roles, extent.top, way) for way in (True, False))
    growing, growing_controls = _growing(ablations, roles, extent.sizes)
    return Explanation(
        recorded.id,
        target.call,
        contrast,
        _text(turn, contrast.chosen),
        _text(turn, contrast.other),
        roles.score,
        int(written.before(contrast.position + 1).argmax()) == contrast.chosen,
        ablations.plain == turn.reply,
        tuple(dict.fromkeys(edit.full_name for edit in recorded.record.edits)),
        token_texts(tokenizer, turn.ids),
        owners,
        roles.layers,
        reasons,
        opposing,
        everywhere[0],
        at_choice[0],
        everywhere[1:],
        at_choice[1:],
        growing,
        growing_controls,
        () if recorded.trace is None else recorded.trace.forced,
    )


def _roles(turn: ReplayedTurn, contrast: Contrast, owners: Sequence[str], extent: Extent) -> Roles:
    score = log_odds([contrast.chosen], [contrast.other])
    with turn.differentiated(contrast.position, lambda logits: score(logits, [0])) as read:
        return roles_of(turn.saes, read, owners, extent)


def _contrast(written: Written, call: CallLike, recorded: RecordedTurn, target: Target) -> Contrast:
    if target.calling:
        return call_contrast(written, call.span)
    formed = well_formed(call, target.call)
    if target.argument is not None:
        return value_contrast(written, formed, target.argument)
    tools = [tool.name for tool in recorded.record.tools]
    return tool_contrast(written, formed, tools, target.against) or call_contrast(written, call.span)


def _call(turn: ReplayedTurn, recorded: RecordedTurn, number: int) -> CallLike:
    calls = parse(turn.loaded.tokenizer, turn.reply, offset=len(turn.prompt)).calls
    if not calls:
        raise AuditError(f"record {recorded.id}: the model made no call in this turn; there is none to explain")
    if not 0 <= number < len(calls):
        raise AuditError(f"record {recorded.id}: --call: got {number}, expected 0 to {len(calls) - 1}")
    return calls[number]


class _Ablations:
    """One choice, to be scored and its call to be written again without some features."""

    def __init__(self, turn: ReplayedTurn, contrast: Contrast, call: CallLike) -> None:
        self.turn, self.contrast, self.call = turn, contrast, call
        self._most = max(64, 2 * len(turn.reply))
        self._score = log_odds([contrast.chosen], [contrast.other])
        (self.plain,) = turn.replies([[]], contrast.position, everywhere=True, most=self._most)

    def changed(self, sets: Sequence[Sequence[Feature]], everywhere: bool) -> list[Changed]:
        """The choice without each set of features."""
        logits = self.turn.ablated([[], *sets], self.contrast.position, everywhere=everywhere)
        lost = self._lost(logits)
        tokens = logits.argmax(dim=-1).tolist()
        return [
            Changed(float(gone), _text(self.turn, token), token != tokens[0])
            for gone, token in zip(lost[1:], tokens[1:], strict=True)
        ]

    def without(self, sets: Sequence[Sequence[Feature]], everywhere: bool) -> list[Without]:
        """The reply without each set of features."""
        changed = self.changed(sets, everywhere)
        replies = self.turn.replies(sets, self.contrast.position, everywhere=everywhere, most=self._most)
        return [
            self._written(tuple(features), one.lost, reply)
            for features, one, reply in zip(sets, changed, replies, strict=True)
        ]

    def _lost(self, logits: Tensor) -> Tensor:
        """Loss of the first row's score, `(n,)`."""
        scores = torch.cat([self._score(row[None], [0]) for row in logits])
        return scores[0] - scores

    def _written(self, features: tuple[Feature, ...], lost: float, reply: Sequence[int]) -> Without:
        parsed = parse(self.turn.loaded.tokenizer, reply, offset=len(self.turn.prompt))
        return Without(
            features, lost, parsed.calls, parsed.text, _content(self.call) not in map(_content, parsed.calls)
        )


def _content(call: CallLike) -> Any:
    """A call without where it stands."""
    return call.raw if isinstance(call, MalformedCall) else (call.name, call.arguments)


def _reasons(turn: ReplayedTurn, ablations: _Ablations, roles: Roles) -> tuple[tuple[Reason, ...], tuple[Reason, ...]]:
    """Each feature taken away by itself: those for the choice, and those against it."""
    both = [*roles.supporting, *roles.opposing]
    singles = [[role.feature] for role in both]
    everywhere, at_choice = (ablations.changed(singles, way) for way in (True, False))
    controls = [next(iter(roles.controls[role.feature]), None) for role in both]
    drawn = iter(ablations.changed([[one] for one in controls if one is not None], True))
    reasons = [
        Reason(
            role.feature,
            turn.saes.labels.get(role.feature, ""),
            role,
            everywhere[number],
            at_choice[number],
            control,
            None if control is None else next(drawn),
        )
        for number, (role, control) in enumerate(zip(both, controls, strict=True))
    ]
    count = len(roles.supporting)
    return tuple(reasons[:count]), tuple(reasons[count:])


def _sets(ablations: _Ablations, roles: Roles, top: int, everywhere: bool) -> tuple[Without, ...]:
    """The listed features taken away at once, and then each draw's random ones."""
    return tuple(ablations.without([one[:top] for one in (roles.ranked, *roles.random_sets)], everywhere))


def _growing(
    ablations: _Ablations, roles: Roles, sizes: Sequence[int]
) -> tuple[tuple[Without, ...], tuple[Without, ...]]:
    """More and more of the first features taken away, and as many random ones of the first draw."""
    some = [size for size in sizes if size <= len(roles.ranked)]
    ladders = [[one[:size] for size in some] for one in (roles.ranked, *roles.random_sets[:1])]
    found = ablations.without([one for ladder in ladders for one in ladder], True)
    return tuple(found[: len(some)]), tuple(found[len(some) :])


def _text(turn: ReplayedTurn, token: int) -> str:
    return token_texts(turn.loaded.tokenizer, [token])[0]
