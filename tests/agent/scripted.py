"""A small random model that says what a test wants it to: all of the runtime is real, only the logits are bent."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

from steerkit.agent import Runtime
from steerkit.audit import Store
from steerkit.chat import encode_call
from steerkit.engine import LoadedModel, box_folder
from steerkit.policy import Policy
from steerkit.testing import SMALL, planted_policy, planted_saes

END, WAIT = "<end_of_turn>", "<start_function_response>"
OBJECT = {"type": "object", "properties": {"x": {"type": "string"}}}


class ScriptedModel(Gemma3ForCausalLM):
    """Runs each pass as it is, and then makes the next token of its script the most likely one."""

    replies: list[list[int]]
    """Tokens of the replies to come; each prompt takes the next one."""
    each_pass: Callable[[], None] | None = None
    """Called before each pass."""
    _left: list[int]

    @functools.wraps(Gemma3ForCausalLM.forward)
    def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:
        """A real pass, with another winner."""
        if self.each_pass is not None:
            self.each_pass()
        output = super().forward(input_ids=input_ids, **options)
        if input_ids.shape[1] > 1:
            self._left = list(self.replies.pop(0))
        output.logits[..., self._left.pop(0)] = 1e9
        return output


@functools.cache
def box_tokenizer() -> Any:
    """The tokenizer of the model in the box."""
    return AutoTokenizer.from_pretrained(str(box_folder("tiny")))


class Script:
    """A runtime, and what its model is to say next."""

    def __init__(self, policy: Any = (), store: Store | None = None, *, seed: int = 0) -> None:
        self._tokenizer = box_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = ScriptedModel(Gemma3TextConfig(**{**SMALL, "vocab_size": len(self._tokenizer)})).eval()
        self.model.requires_grad_(False)
        loaded = LoadedModel("scripted", None, self.model, self._tokenizer)
        self.runtime = Runtime(loaded, planted_saes(self.model), policy, store=store)

    def say(self, *replies: str) -> Runtime:
        """Take these replies as the next ones; control tokens in them are meant."""
        self.model.replies = [self._tokenizer.encode(reply, add_special_tokens=False) for reply in replies]
        return self.runtime


def calling(*names: str, **arguments: Any) -> str:
    """A reply that asks for calls."""
    return "".join(encode_call(name, arguments) for name in names) + WAIT


def declared(name: str, parameters: dict[str, Any] = OBJECT) -> dict[str, Any]:
    """A tool with one optional text."""
    return {"type": "function", "function": {"name": name, "description": "Does it.", "parameters": parameters}}


def ruled(**decisions: str) -> Policy:
    """A policy that judges by the tool's name; what it does not name is allowed."""
    again = {"name": "again", "when": "retry", "where": "reply", "edit": {"f": {"scale": 1.0}}}
    rules = [
        {"name": f"{then}-{tool}", "tool": tool, "then": then, **({"with": "again"} if then == "retry" else {})}
        for tool, then in decisions.items()
    ]
    steer = [again] if "retry" in decisions.values() else []
    return planted_policy("ruled", {"f": (1, 3)}, steer=steer, guard={"default": "allow", "rules": rules})


def events(store: Store) -> list[tuple[Any, ...]]:
    """What a store's records say, in order, in a few words each."""
    found: list[tuple[Any, ...]] = []
    for content in (record.content for record in store.records()):
        match content["kind"]:
            case "turn":
                found.append(("turn", content["finish"]))
            case "approval":
                found.append(("approval", content["call_id"], content["decision"], content["by"]))
            case "execution":
                found.append(("execution", content["call_id"], content["status"]))
    return found


def broken_after(path: Path, count: int) -> Store:
    """A store that takes this many records and then no more: the database itself refuses, as on a full disk."""
    store = Store(path)
    store.database.execute(
        f"CREATE TRIGGER full BEFORE INSERT ON records WHEN NEW.sequence > {count} "
        f"BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
    )
    return store


def user(text: str = "go") -> list[dict[str, Any]]:
    """A conversation's beginning."""
    return [{"role": "user", "content": text}]


def names(calls: Iterable[Any]) -> list[str]:
    """Names of calls, or of executions' calls."""
    return [getattr(one, "call", one).name for one in calls]
