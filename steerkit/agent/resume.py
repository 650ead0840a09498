"""Checks before a pending run is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress

from steerkit.agent.calls import Approval, approval_of
from steerkit.agent.context import RunContext, declaration
from steerkit.agent.exchange import Decisions
from steerkit.agent.loop import held_of
from steerkit.agent.pending import Origin, Pending
from steerkit.audit import Gone, Store, StoredRecord, TurnRecord, approvals_of, canonical, read_content
from steerkit.chat import render, validate_arguments
from steerkit.decisions import ending
from steerkit.errors import AuditError, LoopError
from steerkit.types import Call

_HELD_TO = ("messages", "tools", "text", "calls", "verdicts")
"""Contents of a turn's record that a pending state is held against."""


def decided(context: RunContext, pending: Pending, decisions: Decisions) -> dict[str, Approval]:
    """The approval of each held call, checked against everything that is known, and written down.

    Raises:
        LoopError: a decision is missing or too much, or the state cannot be resumed here.
        AuditError: the store cannot be read or written.
    """
    pending.check()
    approvals = _approvals(pending, decisions)
    _check_origin(pending.origin, context.origin(), "the pending run")
    _check_calls(context, pending)
    _check_declared(context, pending, pending.origin, "the pending run")
    store = context.runtime.store
    with nullcontext() if store is None else store.exclusive():
        _check_once(context, pending, store)
        for held in held_of(pending.calls, pending.record_id):
            context.approved(held, approvals[held.id])
    return approvals


def _approvals(pending: Pending, decisions: Decisions) -> dict[str, Approval]:
    held = [one.id for one in pending.held]
    if not isinstance(decisions, Mapping):
        decisions = dict.fromkeys(held, decisions)
    wanted = ", ".join(held)
    for id in decisions:
        if id not in held:
            raise LoopError(f"decisions[{id!r}]: got a decision for no held call, expected one for each of: {wanted}")
    for id in held:
        if id not in decisions:
            raise LoopError(f"decisions[{id!r}]: got no decision, expected one for each of: {wanted}")
    return {id: approval_of(id, decisions[id]) for id in held}


def _check_calls(context: RunContext, pending: Pending) -> None:
    """Refuse calls that do not fit the tools given now (the guard judged by those given then), and broken messages."""
    render(context.runtime.engine.tokenizer, pending.messages, context.tools, untrusted=context.runtime.untrusted)
    tools = {tool.name: tool for tool in context.tools}
    for one in pending.calls:
        if one.verdict.decision == "deny":
            continue
        if one.call.name not in tools:
            known = ", ".join(tools) or "none"
            raise LoopError(f"{one.id}: got a call of '{one.call.name}', which is not among the tools: {known}")
        if invalid := validate_arguments(tools[one.call.name], one.call.arguments):
            raise LoopError(f"{one.id}: got a call of '{one.call.name}' that does not fit its tool: {invalid}")


def _check_declared(context: RunContext, pending: Pending, made: Origin, where: str) -> None:
    """Refuse a tool that was declared otherwise: what it says it does is part of what was judged and approved."""
    if made.tools is None:
        if context.runtime.store is None:
            raise LoopError(
                f"{where} tools: got none, as an older steerkit wrote it, and there is no audit store to read them in; "
                f"expected the fingerprints of what was declared; begin a new run"
            )
        return  # the turn's record holds them
    then, now = dict(made.tools), dict(context.declared)
    for one in pending.calls:
        name = one.call.name
        if one.verdict.decision != "deny" and then.get(name) != now[name]:
            raise LoopError(
                f"{where}: '{name}' ({one.id}) was declared otherwise (name, description, schema: "
                f"{then.get(name, 'not at all')[:23]}…) than it is now ({now[name][:23]}…); resume it with the tool as "
                f"it was when the call was judged, or begin a new run"
            )


def _check_once(context: RunContext, pending: Pending, store: Store | None) -> None:
    """With a store: nobody has resumed this turn, and the state is what its record says. Raises LoopError."""
    if store is None:
        if pending.record_id is not None:
            raise LoopError(
                f"pending record_id: got {pending.record_id!r}, but this runtime has no audit store to check it with; "
                f"resume it on one with the store of the run"
            )
        return
    record, turn = _record(store, pending)
    _check_record(store, pending, record, turn)
    made = _origin_of(store, turn)
    _check_origin(made, context.origin(), f"record {record.id}")
    _check_declared(context, pending, made, f"record {record.id}")
    if approvals := approvals_of(store, record):
        stored, approval = approvals[0]
        by = approval.by or "somebody"
        raise LoopError(
            f"record {record.id}: its calls were decided on by {by} at {stored.time[:19]}; a turn is resumed "
            f"once, so that no call is executed twice; begin a new run"
        )


def _record(store: Store, pending: Pending) -> tuple[StoredRecord, TurnRecord]:
    """The turn's record, by its whole id and nothing shorter."""
    if pending.record_id is None:
        raise LoopError(
            "pending record_id: got none, but this runtime has an audit store; resume it on a runtime without one"
        )
    with suppress(AuditError):
        record = store.get(pending.record_id)
        turn = read_content(record)
        if record.id == pending.record_id and isinstance(turn, TurnRecord):
            return record, turn
    raise LoopError(
        f"pending record_id: got {pending.record_id!r}, which is no turn in {store.path}; expected the store "
        f"of the run that is pending"
    )


def _check_record(store: Store, pending: Pending, record: StoredRecord, turn: TurnRecord) -> None:
    gone = [name for name, content in record.contents.items() if content.is_redacted and name.split("/")[1] in _HELD_TO]
    if gone:
        raise LoopError(
            f"record {record.id}: its {gone[0][1:]} was redacted, so the pending state cannot be checked; "
            f"begin a new run"
        )
    recorded = [
        (call.name, call.arguments, verdict.decision, verdict.rule, verdict.policy, verdict.reason)
        for call, verdict in zip(turn.calls, turn.verdicts, strict=True)
        if isinstance(call, Call)
    ]
    given = [
        (one.call.name, one.call.arguments, verdict.decision, verdict.rule, verdict.policy, verdict.reason)
        for one in pending.calls
        for verdict in [one.verdict]
    ]
    said = [verdict.decision for verdict in turn.verdicts]
    if "retry" in said or ending(said):
        raise LoopError(
            f"pending record_id: record {pending.record_id} is of a turn that was given up; begin a new run"
        )
    same = {
        "calls": canonical(given) == canonical(recorded),
        "messages": canonical(list(pending.messages)) == canonical(turn.messages),
        "text": pending.text == turn.text,
        "conversation": pending.conversation == turn.conversation,
        "metadata": _metadata_fits(pending, turn),
    }
    if wrong := [name for name, equal in same.items() if not equal]:
        raise LoopError(
            f"pending {wrong[0]}: got others than in record {pending.record_id} of {store.path}; the pending state was "
            f"edited, and nothing of it is executed"
        )


def _metadata_fits(pending: Pending, turn: TurnRecord) -> bool:
    """True if it says who asked as its record does, as far as that still does."""
    if isinstance(turn.metadata, Gone):
        return True
    return canonical(pending.metadata or {}) == canonical(turn.metadata or {})


def _origin_of(store: Store, turn: TurnRecord) -> Origin:
    """Origin of a recorded turn; with the policies of the first attempt, as later ones run under a variant of one."""
    tools = tuple((one.name, declaration(one)) for one in turn.tools)
    while turn.retry_of:
        first = read_content(store.get(turn.retry_of))
        if not isinstance(first, TurnRecord):
            raise AuditError(
                f"{store.path}: record {turn.retry_of} is a {first.kind}; expected the turn before a retry"
            )
        turn = first
    policies = tuple((one.name, one.fingerprint) for one in turn.policies)
    return Origin(turn.model.fingerprint, policies, tools)


def _check_origin(made: Origin, now: Origin, where: str) -> None:
    if made.model != now.model:
        raise LoopError(
            f"{where}: made with the model {made.model[:23]}…, but this runtime's is {now.model[:23]}…; resume it with "
            f"the model that asked"
        )
    if made.policies != now.policies:
        raise LoopError(
            f"{where}: judged under {_named(made)}, but the policies now are {_named(now)}; resume it under the same, "
            f"or begin a new run"
        )


def _named(origin: Origin) -> str:
    return ", ".join(f"{name} ({value[:14]}…)" for name, value in origin.policies) or "no policies"
