"""The prefix cache and policies: what goes wrong without salts, without skipped reads, and what the engine does."""

from __future__ import annotations

from steerkit.agent import Runtime
from steerkit.engine import VllmEngine
from steerkit.engine.vllm.wire import row_name
from steerkit.policy import Policy, load, shipped_file
from steerkit.runtime import Request
from steerkit.testing import planted_policy
from steerkit.tiny.world.conversations import sample
from steerkit.types import Turn
from tests.vllm.conftest import raw

INJECTED = sample("injected", "report", 8)
ORDERS = load(shipped_file("orders"))
TOKENS = 32
STRONG = {"name": "r", "where": "prompt", "edit": {name: {"clamp": 800.0} for name in "abc"}}
WRITTEN = planted_policy("written", {"a": (0, 3), "b": (1, 3), "c": (2, 3)}, steer=[STRONG])
"""Writes at every token of the prompt, in three layers."""


def turned(runtime: Runtime) -> tuple[Request, Turn, Turn]:
    """A request whose reply `orders` changes, its steered and its plain turn."""
    for one in INJECTED:
        steered = runtime.run(one.messages, one.tools, ORDERS, max_new_tokens=TOKENS)
        plain = runtime.run(one.messages, one.tools, (), max_new_tokens=TOKENS)
        if steered.reply_ids != plain.reply_ids:
            return Request(one.messages, one.tools), steered, plain
    raise AssertionError("no reply changed")


def row_of(runtime: Runtime, policy: Policy, one: Request) -> str:
    """The name of a policy's row, which the worker holds."""
    prepared = runtime.prepare(Request(one.messages, one.tools, policy))
    runtime.engine.reserve([prepared.wanted])
    return row_name(prepared.wanted)


def test_the_engine_reads_no_steered_block_and_steers_the_same_twice(beside: Runtime, box: Runtime) -> None:
    """Cold and warm, steered and plain in either order; the control: plain prompts do come from the cache."""
    one, steered, plain = turned(box)
    for policy, expected in 2 * [(ORDERS, steered), ((), plain)]:
        found = beside.run(one.messages, one.tools, policy, max_new_tokens=TOKENS)
        assert found.reply_ids == expected.reply_ids
    assert raw(beside, plain.prompt_ids).cached > 0


def test_a_salt_alone_disarms_gates(beside: Runtime, box: Runtime) -> None:
    """A steered request that reads its own salted blocks passes no hook there: it runs unsteered, and the worker says
    so; with the read skipped it is steered."""
    one, steered, plain = turned(box)
    row = row_of(beside, ORDERS, one)
    how = {"row": row, "salt": "a salt of this test", "most": TOKENS}
    cold, warm = raw(beside, plain.prompt_ids, **how), raw(beside, plain.prompt_ids, **how)
    assert (cold.tokens, cold.cached, cold.error) == (list(steered.reply_ids), 0, "")
    assert warm.cached > 0
    assert warm.tokens == list(plain.reply_ids)
    assert "a request under a rule must be read from its beginning" in warm.error
    again = raw(beside, plain.prompt_ids, **how, skips_cache=True)
    assert (again.tokens, again.error) == (list(steered.reply_ids), "")


def test_a_skipped_read_alone_poisons_the_next_plain_request(inside: Runtime, box: Runtime) -> None:
    """Without a salt the steered blocks are found by a plain request with that prompt; with one they are not.
    Blocks are small, so that all but the end of the prompt is in them."""
    one, _, plain = turned(box)
    assert isinstance(inside.engine, VllmEngine)
    row = row_of(inside, WRITTEN, one)
    clean = raw(inside, plain.prompt_ids, most=TOKENS)
    poisoned = []
    for salt in (None, "another salt"):
        assert inside.engine._llm._engine.reset_prefix_cache()
        raw(inside, plain.prompt_ids, row=row, salt=salt, skips_cache=True, most=TOKENS)
        poisoned.append(raw(inside, plain.prompt_ids, most=TOKENS))
    without, with_salt = poisoned
    assert without.cached > 0
    assert without.tokens != clean.tokens
    assert with_salt.cached == 0
    assert with_salt.tokens == clean.tokens == list(plain.reply_ids)
