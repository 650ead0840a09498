"""The part of a conversation that each token belongs to, in words: the user's text, a tool's result, a declaration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from steerkit.chat import GrammarState, Tokenizer, place_machine, token_bytes

REPLY: Final = "this reply"
FRAME: Final = "the frame"
"""Tokens of the template that stand in no turn."""

_NAMED: Final = re.compile(r"(?:declaration|response):([A-Za-z0-9_.-]+)")


def sources(tokenizer: Tokenizer, prompt: Sequence[int], reply: Sequence[int]) -> tuple[str, ...]:
    """One phrase per token of prompt and reply.

    `declaration of NAME`, `result of NAME`, `developer text`, `user text`, `earlier reply`, `this reply` or `the
    frame`; of several results of a tool, or several texts of the user, the later ones are numbered.
    """
    machine, text = place_machine(tokenizer), token_bytes(tokenizer).text
    runs: list[tuple[str, int]] = []
    standing = GrammarState()
    for position, token in enumerate(prompt):
        before, standing = standing, machine.read(standing, token)
        kind = standing.inside.rstrip(".") or standing.turn.rstrip(".")
        if not runs or runs[-1][0] != kind or before.inside.endswith("."):
            runs.append((kind, position))
    found: list[str] = []
    counts: dict[str, int] = {}
    for (kind, start), end in zip(runs, [*(start for _, start in runs[1:]), len(prompt)], strict=True):
        words = text(prompt[start:end])
        name = _phrase(kind, words) if words.strip() else FRAME
        if kind in ("tool_result", "user"):
            counts[name] = counts.get(name, 0) + 1
            name += f" {counts[name]}" if counts[name] > 1 else ""
        found += [name] * (end - start)
    return (*found, *[REPLY] * len(reply))


def _phrase(kind: str, text: str) -> str:
    named = _NAMED.search(text)
    of = f" of {named[1]}" if named else ""
    phrases = {
        "declaration": f"declaration{of}",
        "tool_result": f"result{of}",
        "developer": "developer text",
        "user": "user text",
        "model": "earlier reply",
    }
    return phrases.get(kind, FRAME)
