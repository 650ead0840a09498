"""What each path does, before and after generation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steerkit.audit import ASKER, Approvals, Gone, new_id, read_content, text_in_order
from steerkit.errors import AuditError
from steerkit.server.answer import Stream, answer
from steerkit.server.approvals import decided_by
from steerkit.server.body import read_body
from steerkit.server.chat_reply import ChatReply
from steerkit.server.chat_request import ChatRequest, read_chat
from steerkit.server.conversation import Conversation, Earlier, conversation_of
from steerkit.server.door import visit_of
from steerkit.server.errors import ApiError
from steerkit.server.fields import Asker, Form, asked, sampling_of, valid
from steerkit.server.judging import CheckRequest, judged
from steerkit.server.keys import Key
from steerkit.server.names import HEADER
from steerkit.server.responses_reply import ResponsesReply
from steerkit.server.responses_request import ResponsesRequest, read_responses
from steerkit.server.service import Service

Endpoint = Callable[[Service, Request], Awaitable[Response]]


class Decision(Form):
    """Body of a decision about a held call."""

    approve: bool
    by: str = ""
    note: str = ""


async def chat_completions(service: Service, request: Request) -> Response:
    """A reply in the form of a chat completion."""
    body = await read_body(request, service.options.limits)
    wanted = read_chat(body, asker_of(request), service.names, service.options.limits, service.default())
    form = wanted.form
    assert isinstance(form, ChatRequest)  # of `read_chat`
    usage = bool(form.stream_options and form.stream_options.include_usage)
    reply = ChatReply(visit_of(request).id, form.model, service.loaded.fingerprint, usage, form.metadata)
    return await answer(service, request, wanted, reply)


async def responses(service: Service, request: Request) -> Response:
    """A reply in the form of a Response; where it only lets approved calls run, nothing is generated."""
    limits, visit = service.options.limits, visit_of(request)
    form = read_responses(await read_body(request, limits), limits)
    earlier, conversation = await asyncio.to_thread(_conversation, service, form, request)
    if conversation.released:
        return _released(form, conversation, visit.id)
    same = None if earlier is None else earlier.record.conversation
    named = same or new_id()
    wanted = asked(
        form,
        conversation.messages,
        form.declared(),
        sampling_of(form, form.max_output_tokens, None, limits, "max_output_tokens"),
        form.shape,
        asker_of(request),
        service.names,
        default=service.default(),
        conversation=named,
        more={"instructions": True} if form.instructions else {},
    )
    return await answer(
        service, request, wanted, ResponsesReply(f"resp_{named}.{visit.id}", form.repeated(), form.asks_approval)
    )


def _conversation(service: Service, form: ResponsesRequest, request: Request) -> tuple[Earlier | None, Conversation]:
    key, loaded = visit_of(request).key, service.loaded
    earlier = None
    if form.previous_response_id is not None:
        earlier = Earlier.of(loaded.runtime.store, form.previous_response_id, key)
    return earlier, conversation_of(form.items, form.instructions, earlier, loaded.approvals, key)


def _released(form: ResponsesRequest, conversation: Conversation, request_id: str) -> Response:
    """The Response of calls that a person let run; it continues from the turn that made them."""
    first = conversation.released[0]
    id = f"resp_{first.conversation}.{first.metadata.get('request_id')}.{request_id}"
    reply = ResponsesReply(id, form.repeated(), form.asks_approval)
    told = {"record": first.record, "status": "approved", "approvals": [one.id for one in conversation.released]}
    calls = [(one.call_id, one.call.name, text_in_order(one.call.arguments)) for one in conversation.released]
    whole = reply.released(calls, told)
    headers = {"x-steerkit-record": first.record}
    if not form.stream:
        return JSONResponse(whole, headers=headers)
    return Stream(_each(reply.released_events(whole)), lambda: None, headers)


async def _each(frames: Iterator[bytes]) -> Any:
    for frame in frames:
        yield frame


async def models(service: Service, request: Request) -> Response:
    """The models that the asker may name."""
    names = service.names.listed(visit_of(request).key)
    if "id" not in request.path_params:
        return JSONResponse({"object": "list", "data": [_model(service, name) for name in names]})
    name = request.path_params["id"]
    if name not in names:
        raise ApiError(404, f"model: got {name[:120]!r}, expected one of {', '.join(names)}", code="model_not_found")
    return JSONResponse(_model(service, name))


def _model(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": service.loaded.began, "owned_by": "steerkit"}


async def check(service: Service, request: Request) -> Response:
    """Verdicts on calls that somebody else made. Nothing is generated or recorded."""
    form = valid(CheckRequest, await read_body(request, service.options.limits))
    policies = service.names.chosen(
        form.model or service.names.model, form.names, request.headers.get(HEADER), visit_of(request).key
    )
    return JSONResponse(await asyncio.to_thread(judged, form, service.loaded.runtime, policies))


async def record(service: Service, request: Request) -> Response:
    """One record, as far as the asker's key may read it."""
    return JSONResponse(await asyncio.to_thread(_record, service, request.path_params["id"], visit_of(request).key))


def _record(service: Service, id: str, key: Key) -> dict[str, Any]:
    store = service.loaded.runtime.store
    try:
        if store is None or not id.isalnum() or id.isdecimal():
            raise AuditError(id)
        stored = store.get(id)
        metadata = read_content(stored).metadata
        asker = "" if metadata is None or isinstance(metadata, Gone) else str(metadata.get(ASKER, ""))
        if not key.may_see(asker):
            raise AuditError(id)
    except AuditError:
        raise ApiError(404, f"{id[:80]}: no such record that this key may read", code="not_found") from None
    place = {"id": stored.id, "sequence": stored.sequence, "time": stored.time, "hash": stored.hash}
    return {"object": "steerkit.record", **place, "previous": stored.previous, "body": stored.content}


async def approvals(service: Service, request: Request) -> Response:
    """The held calls that wait, as far as the asker's key may see them."""
    waiting, sees = _approvals(service), visit_of(request).key.sees
    found = await asyncio.to_thread(waiting.pending, sees)
    damaged = await asyncio.to_thread(waiting.damaged) if sees is None else []
    more = {"damaged": damaged} if damaged else {}
    return JSONResponse({"object": "list", "data": [one.to_json() for one in found], **more})


async def approval(service: Service, request: Request) -> Response:
    """One held call, with the decision about it."""
    found = await asyncio.to_thread(_approvals(service).get, request.path_params["id"], visit_of(request).key.sees)
    return JSONResponse(found.to_json())


async def decide(service: Service, request: Request) -> Response:
    """A decision about a held call: once."""
    form = valid(Decision, await read_body(request, service.options.limits))

    def decided() -> dict[str, Any]:
        id, key, said = request.path_params["id"], visit_of(request).key, {"by": form.by, "note": form.note}
        return decided_by(key, _approvals(service), id, approve=form.approve, **said).to_json()

    return JSONResponse(await asyncio.to_thread(decided))


def _approvals(service: Service) -> Approvals:
    found = service.loaded.approvals
    if found is None:
        raise ApiError(404, "nothing is recorded here, so no call can wait for a decision", code="not_found")
    return found


async def health(service: Service, request: Request) -> Response:
    """An answer while the process lives."""
    return JSONResponse({"status": "ok"})


async def ready(service: Service, request: Request) -> Response:
    """An answer once the model is loaded and while records can be written."""
    await asyncio.to_thread(service.check_ready)
    return JSONResponse({"status": "ready"})


async def metrics(service: Service, request: Request) -> Response:
    """The counts for Prometheus."""
    text = await asyncio.to_thread(service.metrics.text)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def asker_of(request: Request) -> Asker:
    """The asker of a request."""
    visit = visit_of(request)
    return Asker(visit.key, visit.id, request.headers.get(HEADER), request.url.path)


ROUTES: Final[tuple[tuple[str, str, Endpoint], ...]] = (
    ("POST", "/v1/chat/completions", chat_completions),
    ("POST", "/v1/responses", responses),
    ("GET", "/v1/models", models),
    ("GET", "/v1/models/{id:path}", models),
    ("POST", "/v1/steerkit/check", check),
    ("GET", "/v1/steerkit/records/{id}", record),
    ("GET", "/v1/steerkit/approvals", approvals),
    ("GET", "/v1/steerkit/approvals/{id}", approval),
    ("POST", "/v1/steerkit/approvals/{id}", decide),
    ("GET", "/health", health),
    ("GET", "/ready", ready),
    ("GET", "/metrics", metrics),
)
"""Method, path and what answers it."""
