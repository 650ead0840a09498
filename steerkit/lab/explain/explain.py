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
from steerkit.lab.explain.contrast import Choice, Written, call_choice, tool_choice, value_choice, well_formed
from steerkit.lab.explain.explanation import WHOLE, Changed, Explanation, Reason, Target, Without
from steerkit.lab.explain.feature_roles import USUAL, Extent, Roles, roles_of
from steerkit.lab.explain.prompt_sources import sources
from steerkit.lab.explain.recorded_turn import Stage
from steerkit.types import CallLike, Feature, MalformedCall


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
    stage = Stage.of(runtime, recorded)
    tokenizer = stage.loaded.tokenizer
    call = _call(stage, recorded, target.call)
    written = Written(tokenizer, stage.ids, len(stage.prompt), stage.reply_logits())
    choice = _choice(written, call, recorded, target)
    owners = sources(tokenizer, stage.prompt, stage.reply)
    roles = _roles(stage, choice, owners, extent)
    bench = _Bench(stage, choice, call)
    reasons, opposing = _reasons(stage, bench, roles)
    everywhere, at_choice = (_sets(bench, roles, extent.top, way) for way in (True, False))
    growing, growing_controls = _growing(bench, roles, extent.sizes)
    return Explanation(
        recorded.id,
        target.call,
        choice,
        _text(stage, choice.chosen),
        _text(stage, choice.other),
        roles.score,
        int(written.before(choice.position + 1).argmax()) == choice.chosen,
        bench.plain == stage.reply,
        tuple(dict.fromkeys(f"{edit.policy}/{edit.rule}" for edit in recorded.record.edits)),
        token_texts(tokenizer, stage.ids),
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
    )


def _roles(stage: Stage, choice: Choice, owners: Sequence[str], extent: Extent) -> Roles:
    score = log_odds([choice.chosen], [choice.other])
    with stage.differentiated(choice.position, lambda logits: score(logits, [0])) as read:
        return roles_of(stage.saes, read, owners, extent)


def _choice(written: Written, call: CallLike, recorded: RecordedTurn, target: Target) -> Choice:
    if target.calling:
        return call_choice(written, call.span)
    whole = well_formed(call, target.call)
    if target.argument is not None:
        return value_choice(written, whole, target.argument)
    tools = [tool.name for tool in recorded.record.tools]
    return tool_choice(written, whole, tools, target.against) or call_choice(written, call.span)


def _call(stage: Stage, recorded: RecordedTurn, number: int) -> CallLike:
    calls = parse(stage.loaded.tokenizer, stage.reply, offset=len(stage.prompt)).calls
    if not calls:
        raise AuditError(f"record {recorded.id}: the model made no call in this turn; there is none to explain")
    if not 0 <= number < len(calls):
        raise AuditError(f"record {recorded.id}: --call: got {number}, expected 0 to {len(calls) - 1}")
    return calls[number]


class _Bench:
    """One choice, to be scored and its call to be written again without some features."""

    def __init__(self, stage: Stage, choice: Choice, call: CallLike) -> None:
        self.stage, self.choice, self.call = stage, choice, call
        self._most = max(64, 2 * len(stage.reply))
        self._score = log_odds([choice.chosen], [choice.other])
        (self.plain,) = stage.replies([[]], choice.position, everywhere=True, most=self._most)

    def changed(self, sets: Sequence[Sequence[Feature]], everywhere: bool) -> list[Changed]:
        """What becomes of the choice without each set of features."""
        logits = self.stage.ablated([[], *sets], self.choice.position, everywhere=everywhere)
        lost = self._lost(logits)
        tokens = logits.argmax(dim=-1).tolist()
        return [
            Changed(float(gone), _text(self.stage, token), token != tokens[0])
            for gone, token in zip(lost[1:], tokens[1:], strict=True)
        ]

    def without(self, sets: Sequence[Sequence[Feature]], everywhere: bool) -> list[Without]:
        """What the model writes without each set."""
        changed = self.changed(sets, everywhere)
        replies = self.stage.replies(sets, self.choice.position, everywhere=everywhere, most=self._most)
        return [
            self._written(tuple(features), one.lost, reply)
            for features, one, reply in zip(sets, changed, replies, strict=True)
        ]

    def _lost(self, logits: Tensor) -> Tensor:
        """Of the first row's score, `(n,)`."""
        scores = torch.cat([self._score(row[None], [0]) for row in logits])
        return scores[0] - scores

    def _written(self, features: tuple[Feature, ...], lost: float, reply: Sequence[int]) -> Without:
        parsed = parse(self.stage.loaded.tokenizer, reply, offset=len(self.stage.prompt))
        return Without(
            features, lost, parsed.calls, parsed.text, _content(self.call) not in map(_content, parsed.calls)
        )


def _content(call: CallLike) -> Any:
    """A call without where it stands."""
    return call.raw if isinstance(call, MalformedCall) else (call.name, call.arguments)


def _reasons(stage: Stage, bench: _Bench, roles: Roles) -> tuple[tuple[Reason, ...], tuple[Reason, ...]]:
    """Each feature taken away by itself: those for the choice, and those against it."""
    both = [*roles.supporting, *roles.opposing]
    singles = [[role.feature] for role in both]
    everywhere, at_choice = (bench.changed(singles, way) for way in (True, False))
    controls = [next(iter(roles.controls[role.feature]), None) for role in both]
    drawn = iter(bench.changed([[one] for one in controls if one is not None], True))
    reasons = [
        Reason(
            role.feature,
            stage.saes.labels.get(role.feature, ""),
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


def _sets(bench: _Bench, roles: Roles, top: int, everywhere: bool) -> tuple[Without, ...]:
    """The listed features taken away at once, and then each draw's random ones."""
    return tuple(bench.without([one[:top] for one in (roles.ranked, *roles.random_sets)], everywhere))


def _growing(bench: _Bench, roles: Roles, sizes: Sequence[int]) -> tuple[tuple[Without, ...], tuple[Without, ...]]:
    """More and more of the first features taken away, and as many random ones of the first draw."""
    some = [size for size in sizes if size <= len(roles.ranked)]
    ladders = [[one[:size] for size in some] for one in (roles.ranked, *roles.random_sets[:1])]
    found = bench.without([one for ladder in ladders for one in ladder], True)
    return tuple(found[: len(some)]), tuple(found[len(some) :])


def _text(stage: Stage, token: int) -> str:
    return token_texts(stage.loaded.tokenizer, [token])[0]
