"""A store as runs leave it, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steerkit.audit import (
    ApprovalRecord,
    Context,
    ExecutionRecord,
    ModelIdentity,
    PolicyIdentity,
    RunLog,
    RunOpenedRecord,
    SamplingSettings,
    Store,
    append_turn,
    digest,
)
from steerkit.decisions import Decision
from steerkit.sites import Feature, Site
from steerkit.types import Call, TopK, Trace, Turn, Verdict

POLICY = PolicyIdentity("p", "sha256:aa", "enforce", {"name": "p", "guard": {}})
OTHER = PolicyIdentity("q", "sha256:bb", "shadow", {"name": "q"})
MODEL = ModelIdentity("tiny", "sha256:m", "sha256:t", device="cpu", dtype="float32")
LIBRARIES = {"steerkit": "0.1.0"}
TRACE = Trace(0, {"p.f": (0.25, 0.5)}, {"p.f": Feature(1, 7)}, (TopK(Site(0), 0, 1, 1, b"\x01\x00", b"\x00\x3c"),))


def opening() -> RunOpenedRecord:
    """What the example's runs are opened with."""
    return RunOpenedRecord(model=MODEL, policies=(POLICY,), sampling=SamplingSettings(seed=0), libraries=LIBRARIES)


def context(text: str = "open the door", policies: tuple[PolicyIdentity, ...] = (POLICY,)) -> Context:
    """How the example's turns came about."""
    messages = [{"role": "user", "content": text}]
    return Context(
        messages, [], MODEL, None, policies, True, SamplingSettings(seed=7, max_new_tokens=5), LIBRARIES, 0.25
    )


def turn(decision: Decision = "allow", *, tool: str = "unlock_door", rule: str = "r", value: str = "cellar") -> Turn:
    """One turn with one call."""
    verdict = Verdict(decision, rule, f"because of {value}", "p")
    return Turn("a word", (Call(tool, {"door": value}),), (verdict,), TRACE, (1, 2), (3, 4), "tool_call")


def started(path: Path, **settings: Any) -> Store:
    """A handle on a new run of a store."""
    return Store(path).within(RunLog(opening, **settings))


def write_run(store: Store, *, close: bool = True) -> list[str]:
    """Six records: opened, a held turn with its approval and execution, a denied turn, closed. Ids of the turns."""
    held = append_turn(store, turn("hold"), context())
    call = held.calls[0]
    assert isinstance(call, Call)
    about: dict[str, Any] = {"turn": held.record_id, "call_id": "call_1", "call": call}
    store.append(ApprovalRecord(**about, decision="approve", by="ann", note="seen", error=None))
    store.append(ExecutionRecord(**about, status="ok", result=digest({"a": 1}), seconds=0.5))
    denied = append_turn(store, turn("deny", tool="transfer_money", rule="large"), context("pay"))
    if close:
        store.end_run()
    return [str(held.record_id), str(denied.record_id)]
