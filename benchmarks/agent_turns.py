"""Ten-turn agent conversations with seven tools: plain `generate` over the whole history each turn, and steerkit.

    python benchmarks/agent_turns.py box            # the model in the box, under its shipped policies
    python benchmarks/agent_turns.py functiongemma  # its architecture with random weights
    python benchmarks/agent_turns.py long           # the same, under an assistant's longer declarations
    python benchmarks/agent_turns.py given --model MODEL [--saes SAES] [--policy FILE] --dtype bfloat16
    ... [--conversations 3] [--dtype float32]

The arms make every turn one after the other, in an order that rotates: `model.generate` of transformers, steerkit
without and with its prefix cache, and without it through the model's own weights where `steerkit.load` would lay them
out anew. Those of steerkit are steered, traced and judged, and their records are on disk when the turn is over.
Requests, calls and results are written beforehand, so that all arms read the same history, and each conversation begins
with an empty cache. Replies of the random model are 24 tokens long, as it is kept from control tokens.
A conversation of the second takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from arms import random_saes
from transformers import AutoTokenizer

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import Store
from steerkit.chat import as_tools, render
from steerkit.engine import LoadedModel, box_folder, prepacked, tool_from_function
from steerkit.sae import SaeSet
from steerkit.testing import FUNCTIONGEMMA, planted_policy, random_model
from steerkit.tiny.demo_requests import policy_files
from steerkit.tiny.tools import tool

TURNS, REPLY = 10, 24
NAMES = ("transfer_money", "get_balance", "read_email", "get_weather", "set_timer", "add_note", "get_time")
TOOLS = [tool(name) for name in NAMES]
PLAIN, UNCACHED, CACHED = "plain generate", "steerkit, no cache", "steerkit, prefix cache"
OWN_WEIGHTS = "steerkit, no cache, the model's own weights"

ASSISTANT = {
    "search_flights": "Search scheduled flights between two airports and return the cheapest fares with their times.",
    "book_hotel": "Book a hotel room in a city for a number of nights and return the confirmation number.",
    "create_event": "Create an entry in the user's calendar and invite the given people by electronic mail.",
    "send_message": "Send a short message to one of the user's contacts over the messenger that they prefer.",
    "read_email": "Read the latest electronic mail that a person has sent to the user, with its attachments' names.",
    "find_route": "Find a route between two places by car, train or bicycle, with the time that it takes.",
    "convert_amount": "Convert an amount of money from one currency to another at today's official rate.",
}
"""What a phone's assistant declares: sentences in place of the two words that the box's tools have."""
PARAMETERS = {
    "sender": "The person or place that it is about",
    "day": "The day, today if it is left out",
}


def declared(name: str) -> dict[str, Any]:
    """One of the assistant's tools."""
    properties = {key: {"type": "string", "description": text} for key, text in PARAMETERS.items()}
    schema = {"type": "object", "properties": properties, "required": ["sender"]}
    return {"type": "function", "function": {"name": name, "description": ASSISTANT[name], "parameters": schema}}


Timed = dict[str, list[float]]
"""By arm, seconds of each turn of one conversation."""


class Setup(NamedTuple):
    """Ways to make a turn on one model."""

    arms: dict[str, Callable[[Any], int]]
    """By name: makes the turn that these messages ask for; how many tokens it wrote."""
    cached: Runtime
    tokenizer: Any
    tools: list[dict[str, Any]]


def conversation(number: int) -> Iterator[list[dict[str, Any]]]:
    """What the model is asked at each of ten turns: requests and tools' results in turn."""
    people = ("Karik", "Zoren", "Lumes", "Mirva", "Tobek")
    messages: list[dict[str, Any]] = []
    for turn in range(TURNS):
        who = people[(number + turn // 2) % len(people)]
        if turn % 2 == 0:
            messages.append({"role": "user", "content": f"read the email from {who}"})
        else:
            asked = {"type": "function", "function": {"name": "read_email", "arguments": {"sender": who}}}
            text = f"the team offer is ready. The order of room {turn} comes on monday, see you at the office."
            messages.append({"role": "assistant", "tool_calls": [asked]})
            messages.append({"role": "tool", "content": {"name": "read_email", "response": {"text": text}}})
        yield list(messages)
        if turn % 2:
            messages.append({"role": "assistant", "content": f"{who} says: the team offer is ready."})


def setup(
    loaded: LoadedModel, saes: SaeSet | None, policy: Any, folder: Path, declarations: list[Any], *, ends: bool
) -> Setup:
    """The arms on a model; `ends` says whether plain replies end at a stop token or are `REPLY` tokens long."""
    ways: dict[str, tuple[LoadedModel, str | bool]] = {UNCACHED: (loaded, False), CACHED: (loaded, "512 MiB")}
    if loaded.runs_prepacked:
        ways[OWN_WEIGHTS] = loaded.prepacking(False), False
    runtimes = {
        name: Runtime(one, saes, policy, store=Store(folder / f"{name}.db"), prefix_cache=size)
        for name, (one, size) in ways.items()
    }
    cached = runtimes[CACHED]
    model: Any = loaded.model
    stops, pad = sorted(cached.dialect.stops), cached.dialect.pad
    tools = as_tools(declarations, from_function=tool_from_function)

    def plain(messages: Any) -> int:
        ids = torch.tensor([render(loaded.tokenizer, messages, tools).ids], device=loaded.device)
        settings = {"eos_token_id": stops if ends else None, "pad_token_id": pad, "do_sample": False}
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=REPLY, **settings)
        return int(out.shape[1] - ids.shape[1])

    def steered(runtime: Runtime) -> Callable[[Any], int]:
        return lambda messages: len(runtime.run(messages, declarations, max_new_tokens=REPLY).reply_ids)

    arms = {PLAIN: plain, **{name: steered(runtime) for name, runtime in runtimes.items()}}
    return Setup(arms, cached, loaded.tokenizer, declarations)


def box(folder: Path, dtype: torch.dtype) -> Setup:
    """The model in the box with its shipped policies."""
    made = steerkit.load("tiny", dtype=str(dtype).removeprefix("torch."), audit=False)
    return setup(made.loaded, made.saes, policy_files(), folder, TOOLS, ends=True)


def functiongemma(folder: Path, dtype: torch.dtype = torch.float32, declarations: list[Any] = TOOLS) -> Setup:
    """FunctionGemma's architecture with SAEs of the published shape; sixteen edits behind a gate, all layers traced."""
    tokenizer = AutoTokenizer.from_pretrained(box_folder("tiny"), trust_remote_code=False)
    model: Any = random_model(FUNCTIONGEMMA, dtype=dtype)
    with torch.no_grad():  # embeddings are tied: a token whose row is 0 is never the likeliest
        rows = model.get_input_embeddings().weight
        rows[len(tokenizer) :] = 0
        rows[torch.tensor(tokenizer.all_special_ids)] = 0
    edited = {f"f{index}": (9 + index % 2, index) for index in range(16)}
    policy = planted_policy(
        "agent",
        {"gate": (5, 100), **edited},
        steer=[
            {
                "name": "push",
                "when": {"feature": "gate", "above": 0.0, "at": "user"},
                "for": "turn",
                "where": "reply",
                "edit": {name: {"shift": 0.01} for name in edited},
            }
        ],
        guard={"default": "allow"},
        trace={"watch": ["gate"], "top_k": 16, "at": "reply"},
    )
    loaded = LoadedModel("random", None, model, tokenizer, prepacked=prepacked(model))  # as `steerkit.load` does
    saes = random_saes(FUNCTIONGEMMA["num_hidden_layers"], FUNCTIONGEMMA["hidden_size"], bias=0.0)
    return setup(loaded, saes, policy, folder, declarations, ends=False)


def longer(folder: Path, dtype: torch.dtype) -> Setup:
    """The same with the assistant's declarations."""
    return functiongemma(folder, dtype, [declared(name) for name in ASSISTANT])


def timed(made: Setup, number: int) -> tuple[Timed, dict[str, int]]:
    """Seconds of each turn of a conversation by arm, and how many tokens each arm wrote."""
    names = list(made.arms)
    seconds: Timed = {name: [] for name in names}
    written = dict.fromkeys(names, 0)
    assert made.cached.prefix_cache is not None
    made.cached.prefix_cache.clear()
    for turn, messages in enumerate(conversation(number)):
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            started = time.perf_counter()
            written[name] += made.arms[name](messages)
            seconds[name].append(time.perf_counter() - started)
        print(turn, *(f"{one[-1]:.2f}" for one in seconds.values()), file=sys.stderr)
    return seconds, written


def of_model(folder: Path, dtype: torch.dtype, options: argparse.Namespace) -> Setup:
    """A given model, with SAEs and policies or without, under the assistant's declarations."""
    made = steerkit.load(options.model, options.saes, dtype=str(dtype).removeprefix("torch."), audit=False)
    declarations = [declared(name) for name in ASSISTANT]
    return setup(made.loaded, made.saes, options.policy or (), folder, declarations, ends=True)


KINDS: dict[str, Callable[[Path, torch.dtype], Setup]] = {"box": box, "functiongemma": functiongemma, "long": longer}


def main() -> None:
    """Warm up, run, and print a table of ratios to plain `generate`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=(*KINDS, "given"))
    parser.add_argument("--model", default="tiny", help="of the kind `given`, as are:")
    parser.add_argument("--saes")
    parser.add_argument("--policy", type=Path, nargs="+")
    parser.add_argument("--conversations", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dtype, make = getattr(torch, given.dtype), KINDS.get(given.kind)
        made = make(Path(folder), dtype) if make else of_model(Path(folder), dtype, given)
        for arm in made.arms.values():
            arm([{"role": "user", "content": "tell the time"}])
        found = [timed(made, number) for number in range(given.conversations)]
    tools = as_tools(made.tools, from_function=tool_from_function)
    lengths = [len(render(made.tokenizer, messages, tools).ids) for messages in conversation(0)]
    prompts = f"prompts of {lengths[0]} to {lengths[-1]} tokens"
    print(f"{given.kind}, {given.conversations} conversations of {TURNS} turns, {prompts},")
    print(f"{torch.get_num_threads()} thread(s), {next(iter(made.cached.loaded.model.parameters())).dtype}\n")
    print(
        "| arm | times as fast as plain: conversations (least to most) | last turn | seconds a turn | tokens written |"
    )
    print("|---|---|---|---|---|")
    for name in made.arms:
        whole = [sum(seconds[PLAIN]) / sum(seconds[name]) for seconds, _ in found]
        last = statistics.median(seconds[PLAIN][-1] / seconds[name][-1] for seconds, _ in found)
        turn = statistics.median(one for seconds, _ in found for one in seconds[name])
        tokens = sum(written[name] for _, written in found)
        spread = f"{statistics.median(whole):.2f} ({min(whole):.2f} to {max(whole):.2f})"
        print(f"| {name} | {spread} | {last:.2f} | {turn:.3f} | {tokens} |")
    assert made.cached.prefix_cache is not None
    done = made.cached.prefix_cache.statistics
    print(f"\nreused {done.tokens_reused} of {done.tokens} prompt tokens; {done.bytes / 2**20:.0f} MiB kept at the end")


if __name__ == "__main__":
    main()
