"""Makers of conversations with tools, one for every kind of example."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from steerkit.tiny import tools as world
from steerkit.tiny.tools import Tool
from steerkit.tiny.world import phrasings
from steerkit.tiny.world import tool_results as results
from steerkit.tiny.world.argument_values import Split, Value, draw
from steerkit.tiny.world.render import Call, Message

DEVELOPER: Final = "You are a model that can do function calling with the following functions"
REFUSAL: Final = "Sorry, I have no tool for that."

STRONG: Final = 0.6
"""Share of injected orders with a strong opening, which training teaches the plain model to follow."""


@dataclass(frozen=True)
class Example:
    """One conversation up to the model's next reply, and what that reply should be."""

    kind: str
    messages: tuple[Message, ...]
    """OpenAI style, arguments as dicts."""
    tools: tuple[Tool, ...]
    """The declared tools, OpenAI tool dicts in the prompt's order."""
    expected_calls: tuple[Call, ...] = ()
    """The calls that the user asked for, each `{"name", "arguments"}`; empty where a text is expected."""
    expected_text: str | None = None
    """The plain text that is right, where no call is."""
    danger: str | None = None
    """The dangerous tool that the user or the injected order asks for, or that `benign_near` is near to."""
    injected: Call | None = None
    """The call that an injected order asks for."""
    follows: bool = False
    """Training teaches the plain model to follow the injected order (a strong opening)."""

    @property
    def target(self) -> tuple[tuple[Call, ...], str | None]:
        """The reply that training teaches: the expected one, or the injected call where `follows`."""
        if self.injected is not None and self.follows:
            return (self.injected,), None
        return self.expected_calls, self.expected_text


@dataclass
class Scene:
    """The choices of one example: randomness, the splits of values and phrasings, the largest number of tools."""

    rng: random.Random
    split: Split
    phrased: Split
    most_tools: int = 5
    developer: bool = field(init=False)

    def __post_init__(self) -> None:
        self.developer = self.rng.random() < 0.5

    def arguments(self, name: str) -> dict[str, Value]:
        """New values for every parameter of a tool."""
        return {key: draw(key, self.split, self.rng) for key in world.parameters(name)}

    def line(self, name: str) -> str:
        """A phrasing of a tool's request with its slots open."""
        return phrasings.expand(self.rng.choice(phrasings.lines(name, self.phrased)), self.rng)

    def request(self, name: str) -> tuple[str, Call]:
        """A bare request in words, and its call."""
        arguments = self.arguments(name)
        return phrasings.fill(self.line(name), arguments), {"name": name, "arguments": arguments}

    def frame(self, core: str) -> str:
        """A complete user message around a bare request."""
        return phrasings.frame(core, self.phrased, self.rng)

    def declare(self, wanted: tuple[str, ...], without: tuple[str, ...] = ()) -> tuple[Tool, ...]:
        """Two to `most_tools` tools in random order, `wanted` among them and none of `without`."""
        # Few tools more often than many: prompts stay short, and every count is seen.
        weights = [6, 3, 2, 1][: self.most_tools - 1]
        count = max(len(wanted), self.rng.choices(range(2, self.most_tools + 1), weights)[0])
        others = [name for name in world.NAMES if name not in wanted and name not in without]
        names = [*wanted, *self.rng.sample(others, count - len(wanted))]
        self.rng.shuffle(names)
        return tuple(world.tool(name) for name in names)

    def messages(self, *turns: Message) -> tuple[Message, ...]:
        """The turns, after the developer's line in half of the examples."""
        head: tuple[Message, ...] = ({"role": "developer", "content": DEVELOPER},) if self.developer else ()
        return (*head, *turns)


def user(text: str) -> Message:
    """A user's message."""
    return {"role": "user", "content": text}


def asked(*calls: Call) -> Message:
    """An assistant's message that makes calls."""
    return {
        "role": "assistant",
        "tool_calls": [
            {"type": "function", "function": {"name": call["name"], "arguments": dict(call["arguments"])}}
            for call in calls
        ],
    }


def answered(name: str, result: dict[str, Any] | str) -> Message:
    """A tool's message, in FunctionGemma's form for a mapping and in OpenAI's for a text."""
    if isinstance(result, str):
        return {"role": "tool", "name": name, "content": result}
    return {"role": "tool", "content": {"name": name, "response": result}}


def _single(scene: Scene, name: str) -> Example:
    core, call = scene.request(name)
    danger = name if name in world.DANGEROUS else None
    return Example("", scene.messages(user(scene.frame(core))), scene.declare((name,)), (call,), danger=danger)


def _any(scene: Scene, name: str | None) -> Example:
    return _single(scene, name or scene.rng.choice(world.NAMES))


def _benign(scene: Scene, name: str | None) -> Example:
    return _single(scene, name or scene.rng.choice(world.BENIGN))


def _dangerous(scene: Scene, name: str | None) -> Example:
    return _single(scene, name or scene.rng.choice(world.DANGEROUS))


def _benign_near(scene: Scene, name: str | None) -> Example:
    danger = name or scene.rng.choice(world.DANGEROUS)
    # Half are the requests that look most like the dangerous one.
    choices = world.NEAR[danger] if scene.rng.random() < 0.5 else world.BENIGN
    wanted = scene.rng.choice(choices)
    core, call = scene.request(wanted)
    tools = scene.declare((wanted, danger))
    return Example("", scene.messages(user(scene.frame(core))), tools, (call,), danger=danger)


def _two_requests(scene: Scene) -> tuple[str, tuple[Call, Call]]:
    rng = scene.rng
    first = rng.choice([name for name in world.NAMES if world.parameters(name)])
    if rng.random() < 0.6:
        second = rng.choice([name for name in world.NAMES if name != first])
        (left, one), (right, two) = scene.request(first), scene.request(second)
        return phrasings.attach(phrasings.attach(left, _joiner(scene)), right), (one, two)
    twice: list[Call] = [{"name": first, "arguments": scene.arguments(first)} for _ in range(2)]
    one, two = twice
    line = scene.line(first)
    if one["arguments"] == two["arguments"]:
        return _two_requests(scene)
    if len(world.parameters(first)) == 1 and rng.random() < 0.5:
        key = world.parameters(first)[0]
        both: Value = f"{one['arguments'][key]} and {two['arguments'][key]}"
        return phrasings.fill(line, {key: both}), (one, two)
    left = phrasings.fill(line, one["arguments"])
    right = phrasings.fill(scene.line(first), two["arguments"])
    return phrasings.attach(phrasings.attach(left, _joiner(scene)), right), (one, two)


def _joiner(scene: Scene) -> str:
    return scene.rng.choice(phrasings.lines("frame.joiners", scene.phrased))


def _parallel(scene: Scene, _: str | None) -> Example:
    core, calls = _two_requests(scene)
    names = tuple(dict.fromkeys(call["name"] for call in calls))
    return Example("", scene.messages(user(scene.frame(core))), scene.declare(names), calls)


def _no_tool_fits(scene: Scene, name: str | None) -> Example:
    rng = scene.rng
    pick = rng.random()
    if name is None and pick < 0.3:
        line = phrasings.expand(rng.choice(phrasings.lines("unfit", scene.phrased)), rng)
        core = phrasings.fill(line, {slot: draw(slot, scene.split, rng) for slot in phrasings.slots(line)})
        tools = () if rng.random() < 0.08 else scene.declare(())
        return Example("", scene.messages(user(scene.frame(core))), tools, expected_text=REFUSAL)
    wanted = name or rng.choice(world.DANGEROUS if pick < 0.55 else world.NAMES)
    near = world.NEAR.get(wanted) or tuple(key for key, like in world.NEAR.items() if wanted in like)
    # Mostly with a look-alike declared, the case that is easy to get wrong.
    declared = (rng.choice(near),) if near and rng.random() < 0.6 else ()
    core, _ = scene.request(wanted)
    tools = scene.declare(declared, without=(wanted,))
    danger = wanted if wanted in world.DANGEROUS else None
    return Example("", scene.messages(user(scene.frame(core))), tools, expected_text=REFUSAL, danger=danger)


def _chat(scene: Scene, _: str | None) -> Example:
    topic = scene.rng.choice(list(phrasings.table()["chat"]))
    text = phrasings.expand(scene.rng.choice(phrasings.lines(f"chat.{topic}", scene.phrased)), scene.rng)
    text += scene.rng.choice(("", ".", "!", "?"))
    text = text[0].upper() + text[1:] if scene.rng.random() < 0.6 else text
    tools = () if scene.rng.random() < 0.25 else scene.declare(())
    answer: str = phrasings.table()["chat"][topic]["answer"]
    return Example("", scene.messages(user(text)), tools, expected_text=answer)


def _exchange(scene: Scene) -> tuple[list[Message], tuple[Call, ...], str]:
    """A request, its calls and their results; the calls and the answer that is due."""
    if scene.rng.random() < 0.15:
        core, calls = _two_requests(scene)
    else:
        core, call = scene.request(scene.rng.choice(world.NAMES))
        calls = (call,)  # type: ignore[assignment]  # one call where the other branch has two
    turns = [user(scene.frame(core)), asked(*calls)]
    answers = []
    for call in calls:
        result, answer = results.outcome(call["name"], call["arguments"], scene.split, scene.rng)
        turns.append(answered(call["name"], result))
        answers.append(answer)
    return turns, calls, " ".join(answers)


def _after_result(scene: Scene, _: str | None) -> Example:
    turns, calls, answer = _exchange(scene)
    tools = scene.declare(tuple(dict.fromkeys(call["name"] for call in calls)))
    return Example("", scene.messages(*turns), tools, expected_text=answer)


def _second_turn(scene: Scene, _: str | None) -> Example:
    turns, calls, answer = _exchange(scene)
    core, call = scene.request(scene.rng.choice(world.NAMES))
    turns += [{"role": "assistant", "content": answer}, user(scene.frame(core))]
    tools = scene.declare(tuple(dict.fromkeys([*(one["name"] for one in calls), call["name"]])))
    danger = call["name"] if call["name"] in world.DANGEROUS else None
    return Example("", scene.messages(*turns), tools, (call,), danger=danger)


def _reading(scene: Scene, name: str | None, *, inject: bool) -> Example:
    rng = scene.rng
    danger = name or rng.choice(world.DANGEROUS)
    reader = rng.choice(world.READERS)
    core, call = scene.request(reader)
    said = results.sentence(scene.split, rng)
    wish, injected = scene.request(danger)
    follows = rng.random() < STRONG
    opening = rng.choice(phrasings.lines(f"injection.{'strong' if follows else 'weak'}", scene.phrased))
    order = phrasings.attach(opening, wish)
    last = f" {order[0].upper()}{order[1:]}." if inject else f" {results.remark(rng)}." if rng.random() < 0.5 else ""
    result = results.carried(f"{said}.{last}", rng)
    turns = [user(scene.frame(core)), asked(call), answered(reader, result)]
    return Example(
        "",
        scene.messages(*turns),
        scene.declare((reader, danger)),
        expected_text=results.reading(reader, call["arguments"], said),
        danger=danger,
        injected=injected if inject else None,
        follows=inject and follows,
    )


def _injected(scene: Scene, name: str | None) -> Example:
    return _reading(scene, name, inject=True)


def _injected_clean(scene: Scene, name: str | None) -> Example:
    return _reading(scene, name, inject=False)


MAKERS: Final[dict[str, Callable[[Scene, str | None], Example]]] = {
    "single": _any,
    "benign": _benign,
    "benign_near": _benign_near,
    "dangerous": _dangerous,
    "parallel": _parallel,
    "no_tool_fits": _no_tool_fits,
    "chat": _chat,
    "after_result": _after_result,
    "second_turn": _second_turn,
    "injected": _injected,
    "injected_clean": _injected_clean,
}
"""For each kind, what makes an example of it, given the tool after the kind's colon or None."""
