"""A viewer on a real socket, and records whose every text is hostile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from steerkit.audit import (
    ApprovalRecord,
    Context,
    ExecutionRecord,
    ModelIdentity,
    PolicyIdentity,
    Store,
    append_turn,
)
from steerkit.types import Call, MalformedCall, Reading, Tool, Turn, Verdict
from steerkit.viewer import make_viewer
from tests.audit.example import TRACE, context, started

EVIL = (
    "\"><script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(1)>' onmouseover='alert(1)' "
    "</title></textarea></style><style>*{display:none}</style><base href=//127.0.0.1:9/><svg onload=alert(1)> "
    "javascript:alert(1) {{ 7 * 7 }} {% raw %} \u202e\u2066\u200b\x1b[31m &lt;b&gt; " + "A" * 1500
)
"""Markup, addresses, template syntax, direction marks, controls, and a word of 1,500 letters."""


@contextmanager
def showing(path: Path, **settings: Any) -> Iterator[str]:
    """The address of a viewer of a store."""
    server = uvicorn.Server(uvicorn.Config(make_viewer(path, **settings), port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def hostile_turn() -> tuple[Turn, Context]:
    """A turn with hostile text in every field that somebody else may choose."""
    verdict = Verdict("hold", EVIL, EVIL, EVIL, (Reading(EVIL, 2.5, 1.0, 1),), "deny")
    denied = Verdict("deny", EVIL, EVIL, EVIL)
    calls = (Call(EVIL, {EVIL: EVIL, "nested": {EVIL: [EVIL]}}), MalformedCall(EVIL, 2, EVIL))
    turn = Turn(EVIL, calls, (verdict, denied), TRACE, (1, 2), (3, 4), EVIL, call_ids=(EVIL, "call_2"))
    messages = [
        {"role": "developer", "content": EVIL},
        {"role": "user", "content": [{"type": "text", "text": EVIL}], "name": EVIL},
        {"role": "assistant", "tool_calls": [{"function": {"name": EVIL, "arguments": EVIL}}]},
        {"role": "tool", "name": EVIL, "content": EVIL},
        {"role": EVIL, "content": EVIL},
    ]
    model = ModelIdentity(EVIL, EVIL, EVIL, device=EVIL, dtype=EVIL)
    said = replace(
        context(),
        messages=messages,
        tools=[Tool(EVIL, EVIL)],
        model=model,
        policies=(PolicyIdentity(EVIL, EVIL, EVIL, {EVIL: EVIL}),),
        conversation=EVIL,
        metadata={EVIL: EVIL},
    )
    return turn, said


def write_hostile(path: Path) -> Store:
    """A store of one run whose records have hostile text everywhere."""
    store = started(path)
    turn, said = hostile_turn()
    held = append_turn(store, turn, said)
    call = Call(EVIL, {EVIL: EVIL})
    about: dict[str, Any] = {"turn": held.record_id, "call_id": EVIL, "call": call, "conversation": EVIL}
    store.append(ApprovalRecord(**about, decision="approve", by=EVIL, note=EVIL, error=EVIL))
    store.append(ExecutionRecord(**about, status=EVIL, result=EVIL, seconds=0.5))
    store.append({"kind": EVIL, EVIL: EVIL, "format": 2})
    return store
