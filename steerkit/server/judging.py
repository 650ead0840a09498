"""Verdicts on calls that somebody else made: by the guard, and by the model's features as it reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from steerkit import guard
from steerkit.chat import parse, steps_by_place
from steerkit.decisions import releases
from steerkit.engine import Recording, Row, Sampling
from steerkit.errors import MessageError
from steerkit.policy import Policy
from steerkit.runtime import Prepared, Request, Turns, unsteered
from steerkit.server.chat_request import called
from steerkit.server.errors import ApiError
from steerkit.server.fields import Form
from steerkit.steer import Extent
from steerkit.types import Call, CallLike, Trace


class _Called(Form):
    name: str
    arguments: str | dict[str, Any] = ""


class CheckRequest(Form):
    """Body of `POST /v1/steerkit/check`."""

    calls: list[_Called]
    messages: list[dict[str, Any]]
    """The conversation before the calls."""
    tools: list[dict[str, Any]]
    model: str | None = None
    policy: str | list[str] | None = None
    text: str | None = None
    """Text that the model wrote before its calls. With it, empty or not, the model reads all of this and rules on
    features are decided; without it they cannot be, and deny."""

    @property
    def names(self) -> list[str] | None:
        """Names of the policies."""
        return [self.policy] if isinstance(self.policy, str) else self.policy


def judged(form: CheckRequest, runtime: Turns, policies: tuple[Policy, ...] | None) -> dict[str, Any]:
    """A verdict for each call. Raises ApiError and SteerkitError."""
    prepared = runtime.prepare(Request(form.messages, form.tools, policies, counterfactual=False))
    calls: tuple[CallLike, ...] = tuple(
        Call(one.name, called(one.name, one.arguments)["arguments"]) for one in form.calls
    )
    trace = Trace()
    if form.text is not None:
        calls, trace = _read(form.text, calls, prepared, runtime)
    verdicts = guard.review(
        calls, tools=prepared.tools, trace=trace, policies=prepared.policies, messages=form.messages
    )
    said = [one.decision for one in verdicts]
    return {
        "object": "steerkit.check",
        "policies": [one.name for one in prepared.policies],
        "features": form.text is not None,
        "verdicts": [
            {
                "name": call.name,
                "decision": one.decision,
                "rule": one.rule,
                "policy": one.policy,
                "reason": one.reason,
                "may_run": releases(one.decision, said),
                "readings": [{"name": read.name, "value": read.value} for read in one.readings],
            }
            for call, one in zip(form.calls, verdicts, strict=True)
        ],
    }


def _read(
    text: str, calls: Sequence[CallLike], prepared: Prepared, runtime: Turns
) -> tuple[tuple[CallLike, ...], Trace]:
    """The calls with their tokens, and the features of the model as it reads the reply without steering."""
    tokenizer, syntax, prompt = runtime.engine.tokenizer, runtime.dialect.syntax, prepared.prompt.ids
    try:
        written = text + "".join(syntax.encode_call(one.name, one.arguments) for one in calls if isinstance(one, Call))
    except MessageError as error:
        raise ApiError(400, f"calls: {error}", param="calls") from None
    reply = tokenizer.encode(written, add_special_tokens=False)
    found = parse(tokenizer, reply, offset=len(prompt)).calls
    if [_content(one) for one in found] != [_content(one) for one in calls]:
        raise ApiError(
            400, "text: got control tokens of the model in it, expected plain text; give calls as calls", param="text"
        )
    wanted = prepared.wanted._replace(policies=unsteered(prepared.policies))
    row = Row((*prompt, *reply), wanted, Sampling(max_new_tokens=1))
    length = len(prompt) + len(reply)
    (trace,) = _recorded(runtime, row).traces([Extent(length)])
    # A reply's last step is that of the token before its last; one token more stands for its end.
    places = steps_by_place(tokenizer, prompt, [*reply, reply[-1] if reply else 0])
    return found, replace(trace, places=places)


def _recorded(runtime: Turns, row: Row) -> Recording:
    with closing(runtime.engine.generate([row])) as steps:
        while True:
            try:
                next(steps)
            except StopIteration as done:
                recording: Recording = done.value
                return recording


def _content(call: CallLike) -> tuple[str, Mapping[str, Any]] | None:
    return (call.name, dict(call.arguments)) if isinstance(call, Call) else None
