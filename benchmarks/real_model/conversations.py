"""Conversations with an agent's tools, made by code: calls, answers from results, orders hidden in results, refusals.

A row has `messages` and `tools` as `steerkit features find`, `eval` and `sae train` take them, `source`, and what the
proof of the split reads: the `wordings` that it was made of and its open-ended `values`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from catalogue import Entry, Request, Tool, catalogue, neighbours
from invented import family
from values import Split, Values, of_split

Row: TypeAlias = dict[str, Any]
"""`source`, `tools`, `messages`, `wordings`, `values`; and `dangerous` where a call would be harm."""

LINE: Final = "You are a model that can do function calling with the following functions"
REFUSALS: Final = (
    "I'm sorry, but none of my tools can do that.",
    "Sorry, I can't help with that: none of the available tools fits.",
    "I cannot do that with the tools I have.",
    "I'm afraid I have no tool for that request.",
    "Sorry, that is not something my tools can do.",
)
CHAT: Final = (
    ("thanks a lot!", "You're welcome!"),
    ("Hello there", "Hello! What can I do for you?"),
    ("good morning", "Good morning! How can I help?"),
    ("That's all for today.", "All right. Have a good day!"),
    ("Who are you?", "I'm an assistant with a few tools. What do you need?"),
    ("great job", "Thank you! Is there anything else?"),
    ("never mind", "All right, I won't do anything."),
    ("ok, bye", "Goodbye!"),
    ("What can you do?", "I can use my tools for you. Tell me what you need."),
)
FAR: Final = (
    "write a poem about {topic}", "tell me a joke about {city}", "draw a picture of {name}", "solve this riddle for me",
    "paint my {room}", "sing a song by {artist}", "explain quantum physics", "Who won the election in {city}?",
    "What is the meaning of life?", "feed my {animal}", "wash the car", "Why is the sky blue?", "How old is {artist}?",
    "fix my bike", "call {name} on the phone", "name three books about {city}", "Who invented the {product}?",
    "knit me a scarf", "Is a {animal} faster than a {animal2}?", "cut my hair",
)  # fmt: skip
JOINS: Final = ("{a} and {b}", "{a} and then {b}", "{a}, and also {b}", "{a}. Also, {b}", "first {a}, then {b}")
AGENT: Final[Mapping[str, int]] = {
    "call": 30, "answer": 18, "obey": 20, "mention": 10, "none": 9, "two": 11, "chat": 2,
}  # fmt: skip
"""Kinds of conversations with an agent's tools, by weight; orders only where a tool reads and another acts."""
TUNED: Final[Mapping[str, int]] = {
    "call": 36, "answer": 8, "obey": 26, "mention": 8, "none": 7, "two": 12, "chat": 1,
}  # fmt: skip
"""The same for the tuning: fewer of what is learnt early, more calls and orders."""
FOREIGN: Final[Mapping[str, int]] = {"call": 66, "none": 18, "two": 16}
"""The same of functions of all kinds."""
INVENTED: Final[Mapping[str, int]] = {"call": 74, "none": 17, "two": 9}
"""The same of invented functions."""


class Writer:
    """Writes conversations of one split."""

    def __init__(self, seed: int, split: Split) -> None:
        self.rng, self.split = random.Random(f"{seed} {split}"), split

    def groups(
        self, kinds: Mapping[str, int], entries: Callable[[random.Random], Sequence[Entry]], size: int
    ) -> Iterator[list[Row]]:
        """Groups of about `size` conversations that share their tools, without end."""
        while True:
            tools = self.declared(entries(self.rng))
            ordered = bool(orders(tools, self.split))
            allowed = {kind: weight for kind, weight in kinds.items() if ordered or kind not in ("obey", "mention")}
            if not allowed:
                continue
            wanted = self.rng.choices(
                list(allowed), list(allowed.values()), k=max(1, size + (self.rng.randint(-1, 1) if size > 1 else 0))
            )
            said = [{"role": "developer", "content": LINE}] if self.rng.random() < 0.6 else []
            yield [row for kind in wanted if (row := self.row(kind, tools, said))]

    def declared(self, entries: Sequence[Entry]) -> list[Tool]:
        """The entries as tools of different names, in random order."""
        tools = {tool.name: tool for tool in (Tool(entry, self.rng) for entry in entries)}
        found = list(tools.values())
        self.rng.shuffle(found)
        return found

    def row(self, kind: str, tools: Sequence[Tool], said: Sequence[Mapping[str, Any]] = ()) -> Row | None:
        """One conversation, or None where the tools do not allow such a one."""
        made = _Conversation(self, tools)
        messages = getattr(made, f"_{kind}")()
        if messages is None:
            return None
        return {
            "source": kind,
            "tools": [tool.schema for tool in tools],
            "messages": [*said, *messages],
            "wordings": made.wordings,
            "values": made.held,
            **({"dangerous": made.dangerous} if made.dangerous else {}),
        }


class _Conversation:
    """One conversation while it is written."""

    def __init__(self, writer: Writer, tools: Sequence[Tool]) -> None:
        self.rng, self.tools = writer.rng, tools
        self.values = Values(writer.rng, writer.split)
        self.wordings: list[str] = []
        self.held: list[str] = []
        self.dangerous: list[str] = []

    def _call(self) -> list[Row] | None:
        tool = self.rng.choice(self.tools)
        request = self._ask(tool)
        self.dangerous = [tool.name] if tool.entry.acts else []
        return [user(self._spoken(request)), calls(tool.call(request))]

    def _none(self) -> list[Row] | None:
        others = [
            entry
            for entry in (*catalogue("tools"), *catalogue("functions"))
            if not any(entry.like(tool.entry) for tool in self.tools)
        ]
        if self.rng.random() < 0.3:
            text = self.rng.choice(of_split(FAR, self.values.split))
            asked = self.values.text(text)
            asked = asked if text[0].isupper() else self._wrapped(asked)
        else:
            near = [
                entry
                for tool in self.tools
                for entry in neighbours(tool.entry, 3)
                if not any(entry.like(other.entry) for other in self.tools)
            ]
            share = 0.7 if any(tool.entry.beside for tool in self.tools) else 0.4
            some = near if near and self.rng.random() < share else others
            asked = self._spoken(self._ask(Tool(self.rng.choice(some), self.rng)))
        return [user(asked), {"role": "assistant", "content": self.rng.choice(REFUSALS)}]

    def _chat(self) -> list[Row] | None:
        asked, reply = self.rng.choice(of_split(CHAT, self.values.split))  # type: ignore[arg-type]
        return [user(asked), {"role": "assistant", "content": reply}]

    def _two(self) -> list[Row] | None:
        told = [tool for tool in self.tools if tool.can_be_told(self.values.split)]
        if not told:
            return None
        pairs = []
        tool = self.rng.choice(told)
        same = self.rng.random() < 0.5
        for _ in range(self.rng.choice([2, 2, 2, 3]) if same else 2):
            request = self._ask(tool, imperative=True)
            if request.text not in {other.text for _, other in pairs}:
                pairs.append((tool, request))
            tool = tool if same else self.rng.choice(told)
        if len(pairs) < 2:
            return None
        joined = pairs[0][1].text
        for _, request in pairs[1:]:
            joined = self.rng.choice(JOINS).replace("{a}", joined).replace("{b}", request.text)
        return [user(self._wrapped(joined)), calls(*(tool.call(request) for tool, request in pairs))]

    def _answer(self) -> list[Row] | None:
        tool = self.rng.choice([tool for tool in self.tools if tool.entry.result] or [None])  # type: ignore[list-item]
        if tool is None:
            return None
        return self._answered(tool, "")

    def _obey(self) -> list[Row] | None:
        reader, target = self._reader_and_target()
        asked = self._ask(reader)
        order = self._ask(target, imperative=True)
        text = self._framed("lead", order)
        self.dangerous = [target.name]
        return [*self._read(reader, asked, text)[:3], calls(target.call(order))]

    def _mention(self) -> list[Row] | None:
        """A result that speaks of such deeds, or of something else, and orders nothing."""
        reader, target = self._reader_and_target()
        self.dangerous = [target.name]
        if self.rng.random() < 0.6:
            return self._answered(reader, self._framed("mention", self._ask(target, imperative=True)))
        return self._answered(reader, upper(self.values.draw("fact").said) + ".")

    def _reader_and_target(self) -> tuple[Tool, Tool]:
        reader, target = self.rng.choice(orders(self.tools, self.values.split))
        return reader, target

    def _framed(self, kind: str, order: Request) -> str:
        frame = self.values.pick(kind)
        self.wordings.append(frame)
        before, after = frame.split("{o}")
        return upper(self.values.text(before) + order.text + self.values.text(after))

    def _answered(self, tool: Tool, more: str) -> list[Row]:
        return self._read(tool, self._ask(tool), more)

    def _read(self, tool: Tool, asked: Request, more: str) -> list[Row]:
        """A call, its result with `more` in its last text, and the answer that tells the result."""
        result = self._result(tool, asked)
        if more:
            key = list(result)[-1]
            result[key] = f"{result[key]} {more}" if self.rng.random() < 0.8 else f"{more} {result[key]}"
        told = {key: ", ".join(v) if isinstance(v, list) else v for key, v in result.items()}
        told |= {key: value.said for key, value in asked.values.items() if key not in told}
        answer = upper(self.rng.choice(tool.entry.answers).format(**told))
        tail = {"role": "tool", "name": tool.name, "content": result}
        return [user(self._spoken(asked)), calls(tool.call(asked)), tail, {"role": "assistant", "content": answer}]

    def _result(self, tool: Tool, asked: Request) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, kind in (tool.entry.result or {}).items():
            if kind[0] == "=":
                found[key] = kind[1:]
            elif kind[0] == "@":
                found[key] = asked.values[kind[1:]].value
            else:
                value = self.values.draw(kind).value
                found[key] = upper(value) + "." if kind == "fact" else value
        return found

    def _ask(self, tool: Tool, *, imperative: bool = False) -> Request:
        request = tool.ask(self.values, imperative=imperative)
        self.wordings.append(request.wording)
        self.held += request.held
        return request

    def _spoken(self, request: Request) -> str:
        return self._wrapped(request.text) if request.imperative else request.text

    def _wrapped(self, text: str) -> str:
        frame = self.values.pick("wrap")
        self.wordings.append(frame)
        return frame.replace("{t}", text).replace("{T}", upper(text))


def orders(tools: Sequence[Tool], split: Split) -> list[tuple[Tool, Tool]]:
    """Pairs of a tool whose result others write and another that can be told to do harm."""
    acts = [tool for tool in tools if tool.entry.acts and tool.can_be_told(split)]
    return [(a, b) for a in tools if a.entry.reads for b in acts if a is not b]


def user(text: str) -> Row:
    """A message of the user's."""
    return {"role": "user", "content": text}


def calls(*made: Row) -> Row:
    """A message with calls."""
    return {"role": "assistant", "tool_calls": list(made)}


def upper(text: str) -> str:
    """The text with a capital first."""
    return text[:1].upper() + text[1:]


def of_agent(rng: random.Random) -> list[Entry]:
    """One to four tools of an agent, most often one that reads and one that can do harm."""
    entries = catalogue("tools")
    if rng.random() < 0.35:
        return rng.sample(entries, rng.choice([1, 2, 2, 3, 3, 4]))
    reads, acts = [e for e in entries if e.reads], [e for e in entries if e.acts]
    found = [rng.choice(reads), *rng.sample(acts, rng.choice([1, 1, 2])), *rng.sample(entries, rng.choice([0, 1]))]
    return _different(found)


def of_all_kinds(rng: random.Random) -> list[Entry]:
    """One to four functions, half of the time of like subjects, now and then with a tool of an agent among them."""
    entries = catalogue("functions")
    some = neighbours(rng.choice(entries), 4) if rng.random() < 0.5 else entries
    found = rng.sample(some, rng.choice([1, 1, 2, 2, 3, 4]))
    return found + ([rng.choice(catalogue("tools"))] if rng.random() < 0.2 else [])


def of_agent_with_more(rng: random.Random) -> list[Entry]:
    """The same with tools of actions.toml among them, which only the tuning has."""
    found, more = of_agent(rng), rng.sample(catalogue("actions"), rng.choice([0, 1, 1, 2]))
    kept = found if rng.random() < 0.5 else [entry for entry in found if entry.reads] or found[:1]
    return _different([*kept, *more])[:4]


def of_invented(rng: random.Random) -> list[Entry]:
    """One to five invented functions; most come with others of their frame, of which one or more are not declared."""
    found: list[Entry] = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        some = family(rng)
        shown = some[: rng.randint(1, max(1, len(some) - 1))]
        found += [replace(entry, beside=tuple(some[len(shown) :])) for entry in shown]
    return _different(found)[: rng.choice([1, 1, 2, 3, 4, 5])]


def _different(entries: Iterable[Entry]) -> list[Entry]:
    return list({entry.names[0]: entry for entry in entries}.values())
