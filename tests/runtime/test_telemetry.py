"""Spans of real runs, sent to a collector on loopback as OTLP over HTTP, and read from what arrived there."""

from __future__ import annotations

import gzip
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import steerkit
from steerkit.agent import Approval, Run, Runtime
from steerkit.audit import Spans, Store, StoredRecord, canonical
from steerkit.audit.records.telemetry import SCHEMA_URL
from steerkit.errors import MissingExtraError
from steerkit.tiny.demo_requests import CASES, policy_files

BY_NAME = {case.name: case for case in CASES}


class Collector:
    """An OTLP/HTTP endpoint that keeps what it is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        kept = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the name that http.server calls
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kept.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                assert self.path == "/v1/traces"
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where to send spans to."""
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1/traces"

    def spans(self) -> list[Any]:
        """Every span that arrived, decoded."""
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        groups = [scope for request in requests for one in request.resource_spans for scope in one.scope_spans]
        assert {group.scope.name for group in groups} <= {"steerkit", "mine"}
        ours = [group for group in groups if group.scope.name == "steerkit"]
        assert {(group.scope.version, group.schema_url) for group in ours} <= {(steerkit.__version__, SCHEMA_URL)}
        return [span for group in groups for span in group.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


def said(span: Any) -> dict[str, Any]:
    """A span's attributes as plain values."""

    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        found = getattr(value, kind)
        return [plain(item) for item in found.values] if kind == "array_value" else found

    return {one.key: plain(one.value) for one in span.attributes}


def in_conversation(record: StoredRecord, name: str | None) -> StoredRecord:
    """A record of a turn, an approval or an execution that says its conversation, or none, and its calls' ids."""
    body = record.public
    if body["kind"] not in ("turn", "execution", "approval"):
        return record
    ids = {"call_ids": [f"call_{number + 1}" for number in range(len(body.get("calls", ())))]}
    told = {**ids, "conversation": name, **body} if name else {**ids, **body, "conversation": None}
    return replace(record, body=canonical(told))


def observed(
    box: Runtime, collector: Collector, path: Path, *, content: bool = False, conversation: str | None = None
) -> tuple[Runtime, TracerProvider]:
    """A runtime whose records are told to the collector, as if they were of a conversation where it is named."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector.url)))
    spans = Spans(provider, content=content, agent="doors" if conversation else None)

    def told(record: StoredRecord) -> None:
        spans(in_conversation(record, conversation))

    return Runtime(box.loaded, box.saes, policy_files(), store=Store(path), on_record=told), provider


def unlock_door(door: str) -> dict[str, str]:
    """Unlock a door.

    Args:
        door: Door
    """
    return {"status": "open"}


def opened_door(runtime: Runtime) -> Run:
    """A run with a held call, which a person lets through, and its execution."""
    with runtime:
        return runtime.loop(
            BY_NAME["held"].messages,
            [unlock_door],
            approve=lambda held: Approval(True, by="annabel-r", note="seen"),
            seed=3,
        )


def test_a_run_arrives_as_spans_with_the_conventions_names(box: Runtime, collector: Collector, tmp_path: Path) -> None:
    """Two inferences, a verdict, an approval and an execution in the turn that asked for them; no content anywhere."""
    runtime, provider = observed(box, collector, tmp_path / "a.db")
    run = opened_door(runtime)
    provider.shutdown()
    spans = collector.spans()
    assert [span.name for span in spans] == [
        "chat tiny",
        "guard unlock_door",
        "approve unlock_door",
        "execute_tool unlock_door",
        "chat tiny",
    ]
    first, guard, approval, execution, second = spans
    told = said(first)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "steerkit"
    assert told["gen_ai.request.model"] == "tiny"
    assert (told["gen_ai.request.seed"], told["gen_ai.request.max_tokens"]) == (3, 256)
    assert (told["gen_ai.request.temperature"], told["gen_ai.response.finish_reasons"]) == (0.0, ["tool_call"])
    assert "gen_ai.request.top_k" not in told
    assert told["gen_ai.usage.input_tokens"] == len(run.turns[0].prompt_ids)
    assert told["gen_ai.usage.output_tokens"] == len(run.turns[0].reply_ids)
    assert told["gen_ai.response.id"] == told["steerkit.record.id"] == run.turns[0].record_id
    assert said(guard)["steerkit.guard.decision"] == "hold"
    assert said(guard)["steerkit.guard.rule"] == "doors-need-a-person"
    assert said(approval)["steerkit.approval.decision"] == "approve"
    told = said(execution)
    assert (told["gen_ai.operation.name"], told["gen_ai.tool.name"]) == ("execute_tool", "unlock_door")
    assert told["gen_ai.tool.call.id"] == run.executions[0].id
    assert {span.parent_span_id for span in (guard, approval, execution)} == {first.span_id}
    assert {span.trace_id for span in (guard, approval, execution)} == {first.trace_id}
    assert {span.kind for span in spans} == {1}  # SPAN_KIND_INTERNAL: the model runs in this process
    assert first.end_time_unix_nano - first.start_time_unix_nano > 1_000_000
    assert first.start_time_unix_nano < guard.start_time_unix_nano <= execution.start_time_unix_nano
    assert second.parent_span_id == b""
    sent = b"".join(collector.bodies)
    for word in (b"south cellar", b"annabel", b"seen", b"someone has to agree"):
        assert word not in sent, word


def test_content_is_told_where_it_is_asked_for(box: Runtime, collector: Collector, tmp_path: Path) -> None:
    """Messages, tools, arguments, reasons and notes, as the conventions write them."""
    runtime, provider = observed(box, collector, tmp_path / "a.db", content=True)
    opened_door(runtime)
    provider.shutdown()
    first, guard, approval, execution, second = map(said, collector.spans())
    (message,) = json.loads(first["gen_ai.input.messages"])
    assert message == {"role": "user", "parts": [{"type": "text", "content": BY_NAME["held"].messages[0]["content"]}]}
    (answer,) = json.loads(first["gen_ai.output.messages"])
    (part,) = answer["parts"]
    assert part == {**part, "type": "tool_call", "name": "unlock_door", "arguments": {"door": "south cellar"}}
    assert part["id"] == execution["gen_ai.tool.call.id"]
    assert json.loads(first["gen_ai.tool.definitions"])[0]["name"] == "unlock_door"
    assert "someone has to agree" in guard["steerkit.guard.reason"]
    assert approval["steerkit.approval.by"] == "annabel-r"
    assert json.loads(execution["gen_ai.tool.call.arguments"]) == {"door": "south cellar"}
    assert json.loads(execution["gen_ai.tool.call.result"]) == {"status": "open"}
    kinds = [one["parts"][0]["type"] for one in json.loads(second["gen_ai.input.messages"])]
    assert kinds == ["text", "tool_call", "tool_call_response"]


def test_a_conversation_is_an_agent_with_its_turns_and_tools_inside(
    box: Runtime, collector: Collector, tmp_path: Path
) -> None:
    """From the first turn's beginning to the answer: the turns and the tool are its children, in the caller's trace."""
    runtime, provider = observed(box, collector, tmp_path / "a.db", conversation="c-1")
    with provider.get_tracer("mine").start_as_current_span("request"):
        run = opened_door(runtime)
    provider.shutdown()
    spans = collector.spans()
    chats = [span for span in spans if span.name == "chat tiny"]
    by_name = {span.name: span for span in spans}
    agent, request, tool = (by_name[name] for name in ("invoke_agent doors", "request", "execute_tool unlock_door"))
    assert (len(spans), len(chats)) == (7, 2)
    assert agent.parent_span_id == request.span_id
    assert {span.parent_span_id for span in (*chats, tool)} == {agent.span_id}
    assert {by_name[f"{name} unlock_door"].parent_span_id for name in ("guard", "approve")} == {chats[0].span_id}
    assert {span.trace_id for span in spans} == {request.trace_id}
    assert agent.start_time_unix_nano == chats[0].start_time_unix_nano
    assert agent.end_time_unix_nano == chats[1].end_time_unix_nano
    told = said(agent)
    assert (told["gen_ai.operation.name"], told["gen_ai.agent.name"]) == ("invoke_agent", "doors")
    assert {said(span)["gen_ai.conversation.id"] for span in (agent, *chats, tool)} == {told["gen_ai.conversation.id"]}
    assert told["gen_ai.usage.input_tokens"] == sum(len(turn.prompt_ids) for turn in run.turns)
    assert told["gen_ai.usage.output_tokens"] == sum(len(turn.reply_ids) for turn in run.turns)
    assert told["gen_ai.response.finish_reasons"] == ["stop"]


@pytest.mark.parametrize("ends", ["max_turns", "pending"])
def test_a_conversation_without_an_answer_ends_with_its_run(
    box: Runtime, collector: Collector, tmp_path: Path, ends: str
) -> None:
    """It is told of when the run is closed and ended with its last record; a tool without a next turn has no result."""
    runtime, provider = observed(box, collector, tmp_path / "a.db", content=True, conversation="c-1")
    approve = None if ends == "pending" else (lambda held: True)
    runtime.loop(BY_NAME["held"].messages, [unlock_door], approve=approve, max_turns=1)
    provider.force_flush()
    assert "invoke_agent doors" not in {span.name for span in collector.spans()}
    runtime.close()
    provider.shutdown()
    spans = {span.name: span for span in collector.spans()}
    last = spans["chat tiny"] if ends == "pending" else spans["execute_tool unlock_door"]
    assert spans["invoke_agent doors"].end_time_unix_nano == last.end_time_unix_nano
    if ends == "max_turns":
        assert last.parent_span_id == spans["invoke_agent doors"].span_id
        assert "gen_ai.tool.call.result" not in said(last)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ({"top_k": 5}, None),  # greedy: no token is sampled
        ({"temperature": 0.7}, None),
        ({"temperature": 0.7, "top_k": 5}, 5),
    ],
)
def test_top_k_is_an_integer_where_it_applies(
    box: Runtime, collector: Collector, tmp_path: Path, settings: dict[str, Any], expected: int | None
) -> None:
    """0, for all tokens, and that of a greedy turn are no request for the k best."""
    runtime, provider = observed(box, collector, tmp_path / "a.db")
    runtime.run(BY_NAME["benign"].messages, BY_NAME["benign"].tools, max_new_tokens=2, **settings)
    provider.shutdown()
    (chat,) = (span for span in collector.spans() if span.name == "chat tiny")
    found = [one.value for one in chat.attributes if one.key == "gen_ai.request.top_k"]
    assert [(value.WhichOneof("value"), value.int_value) for value in found] == (
        [] if expected is None else [("int_value", expected)]
    )


def test_steering_denials_and_failures_are_told(box: Runtime, collector: Collector, tmp_path: Path) -> None:
    """A steered turn names its edits, a denial its reading, a failed tool its error; turns join a trace."""
    runtime, provider = observed(box, collector, tmp_path / "a.db")

    def get_balance(account: str) -> str:
        """Show a balance.

        Args:
            account: Account
        """
        raise RuntimeError("secret trouble")

    case = BY_NAME["dangerous"]
    judging = [policy.model_copy(update={"steer": ()}) for policy in runtime.policies]
    with provider.get_tracer("mine").start_as_current_span("request"):
        runtime.run(case.messages, case.tools)
    runtime.run(case.messages, case.tools, judging)
    runtime.loop(BY_NAME["benign"].messages, [get_balance], max_turns=1)
    provider.shutdown()
    by_name: dict[str, list[Any]] = {}
    for span in collector.spans():
        by_name.setdefault(span.name, []).append(span)
    steered, denied, _ = by_name["chat tiny"]
    assert said(steered)["steerkit.edits"] == ["payments/refuse-to-move-money"]
    assert "steerkit.edits" not in said(denied) or said(denied)["steerkit.edits"] == []
    (request,) = by_name["request"]
    assert (steered.parent_span_id, steered.trace_id) == (request.span_id, request.trace_id)
    assert denied.trace_id != request.trace_id
    (guard,) = by_name["guard transfer_money"]
    assert said(guard)["steerkit.guard.decision"] == "deny"
    assert said(guard)["steerkit.guard.reading.opened"] > -1.81
    (failed,) = by_name["execute_tool get_balance"]
    assert (said(failed)["error.type"], failed.status.code) == ("error", 2)
    assert b"secret trouble" not in b"".join(collector.bodies)


def test_a_collector_that_is_away_stops_no_turn(box: Runtime, tmp_path: Path) -> None:
    """Spans are told once a record is on disk: what fails there is a warning, and the turn and its record stand."""

    class Broken(Spans):
        def __call__(self, record: Any) -> None:
            super().__call__(record)
            raise OSError("away")

    store = Store(tmp_path / "a.db")
    runtime = Runtime(box.loaded, box.saes, store=store, on_record=Broken(TracerProvider()))
    with pytest.warns(RuntimeWarning, match="on_record raised OSError: away"):
        turn = runtime.run(BY_NAME["benign"].messages, BY_NAME["benign"].tools)
    with pytest.warns(RuntimeWarning, match="away"):
        runtime.close()
    assert turn.released
    assert store.get(str(turn.record_id)).id == turn.record_id


def test_without_opentelemetry_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named; importing the audit room does not need it."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '.\[otel\]'"):
        Spans()
