"""The conversations that a policy is proved on: harmful ones, and benign ones that must stay as they are."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from steerkit.chat import Tokenizer, as_tools, render
from steerkit.decisions import RELEASED
from steerkit.engine import tool_from_function
from steerkit.errors import SaeError, ToolError
from steerkit.fingerprints import sha256_of
from steerkit.lab.cases import Case
from steerkit.lab.copies import Copies, copies_of, said
from steerkit.lab.corpus import Conversation, conversation_key, conversation_of, read_rows
from steerkit.policy import Policy
from steerkit.types import Tool


class Labelled(NamedTuple):
    """One conversation up to the reply that is asked for."""

    key: str
    """`harmful/0`, `benign/7`: which file, which row."""
    harmful: bool
    messages: Sequence[Mapping[str, Any]]
    tools: tuple[Tool, ...]
    dangerous: frozenset[str]
    """Tools of which a call is what the attack wants; empty for a benign one."""
    group: str | None = None
    """Its group, as its row names it; conversations of one group count once."""

    @property
    def content(self) -> str:
        """The messages and tools as text; equal for copies."""
        return conversation_key(self.messages, self.tools)


def read_dataset(
    harmful: Path, benign: Path, policy: Policy, *, dangerous: Collection[str] = (), limit: int | None = None
) -> list[Labelled]:
    """The conversations of both files, the harmful ones first.

    Dangerous is what a row's key `dangerous` lists, else `dangerous`, else every tool that a restricting rule of the
    policy's guard names.

    Args:
        harmful: JSONL rows with `messages`, `tools` and perhaps `dangerous` and `group` (see README.md here).
        benign: the same.
        policy: for the tools it names.
        dangerous: names of tools.
        limit: read at most this many rows of each.

    Raises:
        SaeError: a row that is no conversation, no rows, or a harmful one of which nothing says what is dangerous.
    """
    names = frozenset(dangerous) or restricted_tools(policy)
    found = []
    for path, kind in ((harmful, "harmful"), (benign, "benign")):
        rows = [
            _labelled(where, row, f"{kind}/{number}", kind == "harmful", names)
            for number, (where, row) in enumerate(read_rows(path))
            if limit is None or number < limit
        ]
        if not rows:
            raise SaeError(f"{path}: got no rows, expected conversations with messages and tools")
        found += rows
    return found


def distinct(dataset: Sequence[Labelled]) -> tuple[list[Labelled], list[str]]:
    """The dataset without copies and without conversations that stand in both files, and what was dropped, in words.

    Raises:
        SaeError: nothing is left of one of the files.
    """
    sides = {side: {one.content for one in dataset if one.harmful is side} for side in (True, False)}
    both, seen, found = sides[True] & sides[False], set[str](), list[Labelled]()
    for one in dataset:
        content = one.content
        if content not in both and content not in seen:
            seen.add(content)
            found.append(one)
    if both and not all(any(one.harmful is side for one in found) for side in (True, False)):
        raise SaeError(
            "every conversation of one file stands in the other, too, so that it is neither harmful nor benign"
        )
    again = len(dataset) - len(found) - sum(one.content in both for one in dataset)
    notes = [f"{again} of {len(dataset)} conversations are copies of others; dropped"] if again else []
    if both:
        notes.append(f"{len(both)} conversations stand in both files, so that they show neither; dropped from both")
    return found, notes


def copies_among(dataset: Sequence[Labelled]) -> Copies:
    """Conversations that are equal, near-copies, or of one group as their rows say."""
    return copies_of(
        [[one.content] for one in dataset], [said(one.messages) for one in dataset], [one.group for one in dataset]
    )


def fingerprint_of(dataset: Sequence[Labelled]) -> str:
    """SHA-256 over what is asked in all conversations and which of them belong together."""
    rows = [
        [one.key, one.messages, list(map(_declared, one.tools)), *([] if one.group is None else [one.group])]
        for one in dataset
    ]
    return sha256_of(json.dumps(rows))


def case_of(tokenizer: Tokenizer, conversation: Labelled, reply: Sequence[int], untrusted: str) -> Case:
    """The prompt of a conversation with a reply to it."""
    prompt = render(tokenizer, conversation.messages, conversation.tools, untrusted=untrusted).ids
    return Case(prompt, tuple(reply), group=conversation.group, said=said(conversation.messages))


def restricted_tools(policy: Policy) -> frozenset[str]:
    """The tools that rules of a policy's guard name in order to restrict them."""
    rules = policy.guard.rules if policy.guard else ()
    return frozenset(rule.tool for rule in rules if rule.tool != "*" and rule.then not in RELEASED)


def read_conversations(path: Path, limit: int | None = None) -> list[Conversation]:
    """The conversations of a JSONL file. Raises SaeError: none, or a row that is none."""
    found = [_conversation(where, row) for n, (where, row) in enumerate(read_rows(path)) if limit is None or n < limit]
    if not found:
        raise SaeError(f"{path}: got no rows, expected conversations with messages and tools")
    return found


def _labelled(where: str, row: Mapping[str, Any], key: str, harmful: bool, names: frozenset[str]) -> Labelled:
    asked = _conversation(where, row)
    own = row.get("dangerous")
    if own is not None and (not isinstance(own, list) or not all(isinstance(name, str) for name in own)):
        raise SaeError(f"{where}: dangerous: got {own!r}, expected a list of names of tools")
    wanted = frozenset(own) if own else names
    if harmful and not wanted:
        raise SaeError(f"{where}: nothing says which tools are dangerous; give --dangerous NAME, or a key dangerous")
    return Labelled(key, harmful, asked.asked, tuple(asked.tools), wanted if harmful else frozenset(), asked.group)


def _conversation(where: str, row: Mapping[str, Any]) -> Conversation:
    found = conversation_of(where, row)
    try:
        found = found._replace(tools=as_tools(found.tools, from_function=tool_from_function))
    except ToolError as error:
        raise SaeError(f"{where}: {error}") from None
    if not found.asked:
        raise SaeError(f"{where}: got only the assistant's messages, expected something to answer")
    return found


def _declared(tool: Tool) -> dict[str, Any]:
    """A tool as JSON, as before there was `strict`."""
    return {key: value for key, value in asdict(tool).items() if value is not None}
