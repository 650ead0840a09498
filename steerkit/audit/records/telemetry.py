"""OpenTelemetry spans of turns, tools and the guard's decisions, one each, from their records.

The names of inferences and tools are those of the GenAI semantic conventions, which are still in development; what has
no settled name there begins with `steerkit.`:

| span | of | attributes |
|---|---|---|
| `invoke_agent AGENT` | a conversation of the agent loop | model, tokens of all its turns, the last finish |
| `chat MODEL` | a turn, in its conversation | model, settings, tokens, finish; policies, edits, attempt |
| `guard TOOL` | a verdict, inside its turn | `steerkit.guard.decision`, `.rule`, `.policy`, `.shadowed`, `.reading.*` |
| `approve TOOL` | a person's decision, inside its turn | `steerkit.approval.decision` |
| `execute_tool TOOL` | an execution, in its conversation or turn | the call's id; `error.type` where it failed |

`gen_ai.response.id` and `steerkit.record.id` are ids of records. Private content (what a redaction takes away) is
left out unless it is asked for.

A conversation ends with an answer, or when a rule stops it. The span of one that waits for a person, or had its last
turn, is made when its run is closed; it ended with its last record. A tool's result is in the record of the next turn:
where content is asked for, its span is made then, or at the end of the conversation without its result.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from steerkit.audit.log.reading import read_content
from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.records.query import conversation_of
from steerkit.audit.records.spoken import digest_of, json_text, said, tool_results
from steerkit.audit.schema import ApprovalRecord, ExecutionRecord, Record, RunClosedRecord, TurnRecord
from steerkit.decisions import ending
from steerkit.errors import MissingExtraError
from steerkit.types import Call, CallLike, Verdict

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"
"""The version of the conventions: that of their own repository, `open-telemetry/semantic-conventions-genai`."""
_REMEMBERED: Final = 10_000
"""Turns whose later approvals and executions still find their span; open conversations, and executions that wait for
their result, at most."""


@dataclass
class _Agent:
    """A conversation that is not over."""

    span: Span
    inside: Context
    run: Any
    end: int
    """Time of its last record, in nanoseconds."""
    read: int = 0
    """Tokens of all prompts."""
    written: int = 0
    finish: str | None = None


class _Waiting(NamedTuple):
    """An execution whose result is not known yet."""

    run: Any
    conversation: Any
    tell: Callable[[Mapping[str, Any]], object]
    """Makes its span, with these attributes more."""


class Spans:
    """An observer for `on_record`: makes spans of the records that a runtime writes, once they are on disk.

    A turn's span, or that of its conversation, is a child of the span that is current where the turn is made, if there
    is one.

    Args:
        provider: makes the tracer (default: the global one, as the OpenTelemetry SDK was set up).
        content: adds messages, texts, tools, arguments, results and reasons.
        agent: how the agent is called in `invoke_agent AGENT`, if it has a name.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """

    def __init__(
        self, provider: TracerProvider | None = None, *, content: bool = False, agent: str | None = None
    ) -> None:
        try:
            from opentelemetry import trace
        except ImportError:
            raise MissingExtraError.of("the exporter of spans", "otel") from None
        from steerkit.version import __version__

        self._trace, self._content, self._name = trace, content, agent
        self._tracer = trace.get_tracer("steerkit", __version__, tracer_provider=provider, schema_url=SCHEMA_URL)
        self._turns: OrderedDict[str, Context] = OrderedDict()
        self._agents: OrderedDict[str, _Agent] = OrderedDict()
        self._waiting: OrderedDict[tuple[Any, ...], _Waiting] = OrderedDict()

    def __call__(self, record: StoredRecord) -> None:
        """Make the spans of one record."""
        match content := read_content(record):
            case TurnRecord():
                self._turn(record, content)
            case ExecutionRecord():
                self._execution(record, content)
            case ApprovalRecord():
                self._approval(record, content)
            case RunClosedRecord():
                for name in [name for name, agent in list(self._agents.items()) if agent.run == content.run]:
                    self._end(name)
                self._give_up(lambda one: one.run == content.run)

    def _turn(self, record: StoredRecord, turn: TurnRecord) -> None:
        if self._content:
            self._results(turn)
        agent = self._agent(record, turn)
        attributes = _inference(record, turn)
        if self._content:
            attributes |= said(record, turn)
        name = f"chat {turn.model.name}"
        span = self._span(name, record, turn.seconds, attributes, None if agent is None else agent.inside)
        inside = self._trace.set_span_in_context(span)
        for call, verdict in zip(turn.calls, turn.verdicts, strict=True):
            attributes = _judged(call, verdict)
            if self._content:
                attributes["steerkit.guard.reason"] = verdict.reason
            self._span(f"guard {_tool(call) or 'malformed call'}", record, 0, attributes, inside)
        self._turns[record.id] = inside
        if len(self._turns) > _REMEMBERED:
            self._turns.popitem(last=False)
        if agent is not None:
            agent.read, agent.finish = agent.read + len(turn.prompt_ids), turn.finish
            agent.written += len(turn.reply_ids)
            if not turn.calls or ending([verdict.decision for verdict in turn.verdicts]):
                self._end(str(turn.conversation))

    def _execution(self, record: StoredRecord, one: ExecutionRecord) -> None:
        agent = self._agent(record, one)
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": one.call.name,
            "gen_ai.tool.call.id": one.call_id,
            "gen_ai.tool.type": "function",
            "gen_ai.conversation.id": one.conversation,
            "steerkit.record.id": record.id,
        }
        failed = one.status if one.status != "ok" else None
        if failed is not None:
            attributes["error.type"] = failed
        if self._content:
            attributes["gen_ai.tool.call.arguments"] = json_text(one.call.arguments)
        inside = self._turns.get(one.turn or "") if agent is None else agent.inside
        name = f"execute_tool {one.call.name}"

        def tell(more: Mapping[str, Any]) -> None:
            self._span(name, record, one.seconds, {**attributes, **more}, inside, failed)

        if self._content and one.result is not None:
            waiting = _Waiting(one.run, one.conversation, tell)
            self._waiting[one.run, one.call_id, one.result, record.id] = waiting
            if len(self._waiting) > _REMEMBERED:
                self._waiting.popitem(last=False)[1].tell({})
        else:
            tell({})

    def _approval(self, record: StoredRecord, one: ApprovalRecord) -> None:
        agent = self._agent(record, one)
        attributes = {
            "steerkit.approval.decision": one.decision,
            "gen_ai.tool.name": one.call.name,
            "gen_ai.tool.call.id": one.call_id,
            "gen_ai.conversation.id": one.conversation,
            "steerkit.record.id": record.id,
        }
        if self._content:
            attributes |= {
                f"steerkit.approval.{key}": text for key, text in (("by", one.by), ("note", one.note)) if text
            }
        inside = self._turns.get(one.turn or "", None if agent is None else agent.inside)
        self._span(f"approve {one.call.name}", record, 0, attributes, inside)

    def _agent(self, record: StoredRecord, content: Record) -> _Agent | None:
        """The conversation that a record belongs to, begun with it where it is the first; None where it is in none."""
        name = conversation_of(content)
        if name is None:
            return None
        start, end = _times(record, None if isinstance(content, ApprovalRecord) else getattr(content, "seconds", None))
        if name not in self._agents:
            attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.provider.name": "steerkit"}
            attributes |= {"gen_ai.conversation.id": name, "steerkit.run.id": str(content.run)}
            if self._name:
                attributes["gen_ai.agent.name"] = self._name
            title = f"invoke_agent {self._name or ''}".rstrip()
            span = self._tracer.start_span(title, attributes=attributes, start_time=start)
            self._agents[name] = _Agent(span, self._trace.set_span_in_context(span), content.run, end)
            if len(self._agents) > _REMEMBERED:
                self._end(next(iter(self._agents)))
        agent = self._agents[name]
        agent.end = end
        if isinstance(content, TurnRecord):
            agent.span.set_attribute("gen_ai.request.model", content.model.name)
        return agent

    def _end(self, conversation: str) -> None:
        """End the span of a conversation."""
        self._give_up(lambda one: one.conversation == conversation)
        agent = self._agents.pop(conversation)
        agent.span.set_attribute("gen_ai.usage.input_tokens", agent.read)
        agent.span.set_attribute("gen_ai.usage.output_tokens", agent.written)
        if agent.finish is not None:
            agent.span.set_attribute("gen_ai.response.finish_reasons", [agent.finish])
        agent.span.end(agent.end)

    def _results(self, turn: TurnRecord) -> None:
        """Make the spans of executions whose results are in a turn's messages."""
        for id, text in tool_results(turn.messages):
            digest = digest_of(text)
            for key in [key for key in list(self._waiting) if key[:3] == (turn.run, id, digest)]:
                self._waiting.pop(key).tell({"gen_ai.tool.call.result": text})

    def _give_up(self, which: Callable[[_Waiting], bool]) -> None:
        """Make the spans of executions whose result no turn will have."""
        for key in [key for key, one in list(self._waiting.items()) if which(one)]:
            self._waiting.pop(key).tell({})

    def _span(
        self,
        name: str,
        record: StoredRecord,
        seconds: float | None,
        attributes: Mapping[str, Any],
        inside: Context | None,
        failed: str | None = None,
    ) -> Span:
        """A span that ended when its record was written, and took so many seconds."""
        start, end = _times(record, seconds)
        known = {key: value for key, value in attributes.items() if value is not None}
        span = self._tracer.start_span(name, inside, attributes=known, start_time=start)
        if failed is not None:
            span.set_status(self._trace.StatusCode.ERROR, failed)
        span.end(end)
        return span


def _times(record: StoredRecord, seconds: float | None) -> tuple[int, int]:
    """Begin and end of what a record is about, in nanoseconds; it ended when the record was written."""
    end = round(datetime.fromisoformat(record.time).timestamp() * 1_000_000) * 1000
    return end - int((seconds or 0) * 1e9), end


def _inference(record: StoredRecord, turn: TurnRecord) -> dict[str, Any]:
    """Attributes of a turn's span, without content."""
    asked = turn.sampling
    settings = {  # a top_k of 0 is none, and a greedy turn asks for none
        "gen_ai.request.max_tokens": asked.max_new_tokens,
        "gen_ai.request.temperature": None if asked.temperature is None else float(asked.temperature),
        "gen_ai.request.top_p": None if asked.top_p is None else float(asked.top_p),
        "gen_ai.request.top_k": asked.top_k if asked.temperature and asked.top_k else None,
        "gen_ai.request.seed": asked.seed,
    }
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "steerkit",
        "gen_ai.request.model": turn.model.name,
        **settings,
        "gen_ai.conversation.id": turn.conversation,
        "gen_ai.response.id": record.id,
        "gen_ai.response.model": turn.model.name,
        "gen_ai.response.finish_reasons": [turn.finish],
        "gen_ai.usage.input_tokens": len(turn.prompt_ids),
        "gen_ai.usage.output_tokens": len(turn.reply_ids),
        "steerkit.record.id": record.id,
        "steerkit.run.id": turn.run,
        "steerkit.model.fingerprint": turn.model.fingerprint,
        "steerkit.policies": [policy.name for policy in turn.policies],
        "steerkit.edits": [edit.full_name for edit in turn.edits],
        "steerkit.attempt": turn.attempt,
    }


def _judged(call: CallLike, verdict: Verdict) -> dict[str, Any]:
    """Attributes of a verdict's span, without content."""
    return {
        "gen_ai.tool.name": _tool(call),
        "steerkit.guard.decision": verdict.decision,
        "steerkit.guard.rule": verdict.rule,
        "steerkit.guard.policy": verdict.policy or None,
        "steerkit.guard.shadowed": verdict.shadowed,
        **{f"steerkit.guard.reading.{one.name}": float(one.value) for one in verdict.readings},
    }


def _tool(call: CallLike) -> str | None:
    return call.name if isinstance(call, Call) else None
