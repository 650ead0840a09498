"""A turn in every family's dialect, on a small random model of the family's own architecture, loaded from a folder.

Random weights ask for nothing, so the logits are bent to a script; all else is real: the chat template, the tokens, the
model's passes, its features, the guard and the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import Store, verify
from steerkit.chat import dialect_of, steps_by_place
from steerkit.errors import ModelError
from steerkit.testing import planted_policy, planted_saes
from steerkit.types import Call, MalformedCall, Turn
from tests.agent.scripted import declared
from tests.chat.families import family, hermes_template, qwen3

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma4": ("gemma4_text", {"sliding_window": 16, "hidden_size_per_layer_input": 8, "global_head_dim": 16}),
    "qwen3": ("qwen3", {}),
    "qwen2.5": ("qwen2", {}),
    "granite4": (
        "granitemoehybrid",
        {"num_local_experts": 0, "mamba_n_heads": 2, "layer_types": ["attention"] * 3},
    ),
    "smollm3": ("smollm3", {"layer_types": ["full_attention"] * 3}),
}
USER = {"role": "user", "content": "go"}
TOOLS = [declared("pay"), declared("look")]


class Scripted:
    """A loaded runtime whose model writes what it is told to, a reply for each generation."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.replies = runtime, list[list[int]]()
        self._left: Iterator[int] = iter(())
        runtime.loaded.model.register_forward_hook(self._bend, with_kwargs=True)
        self.syntax = dialect_of(runtime.loaded.tokenizer).syntax

    def say(self, *replies: str) -> Runtime:
        """Take these replies as the next ones, each ended as the dialect ends a turn; control tokens are meant."""
        tokenizer = self.runtime.loaded.tokenizer
        end = dialect_of(tokenizer).end_turn
        self.replies = [[*tokenizer.encode(reply, add_special_tokens=False), end] for reply in replies]
        return self.runtime

    def _bend(self, model: Any, args: Any, options: Any, output: Any) -> Any:
        if options["input_ids"].shape[1] > 1:  # the end of a prompt: its blocks do without the head
            self._left = iter(self.replies.pop(0))
        output.logits[..., next(self._left)] = 1e9
        return output


def write_model(folder: Path, name: str, tokenizer: Any) -> None:
    """A model of the family's architecture with random weights, and a tokenizer, as a folder to load."""
    kind, own = MODELS[name]
    if kind == "gemma4_text":
        own = {**own, "vocab_size_per_layer_input": len(tokenizer)}
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=None, **{**SMALL, **own}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module", params=list(MODELS))
def scripted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scripted:
    """A family's model through `steerkit.load`, with planted SAEs."""
    folder = tmp_path_factory.mktemp(request.param)
    write_model(folder, request.param, family(request.param))
    loaded = steerkit.load(folder).loaded
    return Scripted(Runtime(loaded, planted_saes(loaded.model), prefix_cache=False))


def ruled(above: float) -> Any:
    """A rule about a feature at the name of a call of `pay`; everything else is allowed."""
    when = {"feature": "f", "above": above, "at": "call.name"}
    rules = [{"name": "careful", "tool": "pay", "when": when, "then": "deny"}]
    return planted_policy("ruled", {"f": (1, 3)}, guard={"default": "allow", "rules": rules})


def test_a_turn_is_rendered_generated_parsed_judged_and_recorded(scripted: Scripted, tmp_path: Path) -> None:
    """The calls come typed, a rule about a feature at the name decides, and the record holds the turn and verifies."""
    store = Store(tmp_path / "audit.db")
    runtime = Runtime(scripted.runtime.loaded, scripted.runtime.saes, store=store, prefix_cache=False)
    reply = "so " + scripted.syntax.encode_call("pay", {"x": 'a "b"\n'}) + scripted.syntax.encode_call("look", {})
    for above, decision in ((-1.0, "deny"), (1e6, "allow")):
        scripted.say(reply)
        turn = runtime.run([USER], TOOLS, ruled(above))
        assert [type(call) for call in turn.calls] == [Call, Call]
        assert [(call.name, call.arguments) for call in turn.calls] == [("pay", {"x": 'a "b"\n'}), ("look", {})]  # type: ignore[union-attr]
        assert [verdict.decision for verdict in turn.verdicts] == [decision, "allow"]
        assert turn.text == "so "
        assert turn.trace.places == steps_by_place(runtime.loaded.tokenizer, turn.prompt_ids, turn.reply_ids)
        assert {"call.name", "call.arguments.x", "user", "declaration"} <= set(turn.trace.places)
    bodies = [record.content for record in store.records() if record.content["kind"] == "turn"]
    assert [[call["name"] for call in body["calls"]] for body in bodies] == [["pay", "look"]] * 2
    runtime.close()
    assert verify(store).records == 4  # with the run's opening and its end


def test_a_loop_tells_the_model_what_its_tool_said(scripted: Scripted) -> None:
    """The result stands in the next prompt at `tool_result`, after the call, and the model answers."""
    runtime = scripted.say(scripted.syntax.encode_call("look", {"x": "sky"}), "It is blue.")
    tools = {"look": lambda x: f"{x} is blue", "pay": lambda x: None}
    run = runtime.loop([USER], TOOLS, execute=tools)
    assert (run.status, run.text) == ("answer", "It is blue.")
    turn, tokenizer = run.turns[-1], runtime.loaded.tokenizer
    told = [tokenizer.decode(turn.prompt_ids[start:end]) for start, end in turn.trace.places["tool_result"]]
    assert "sky is blue" in "".join(told)


def test_a_malformed_call_is_never_released(scripted: Scripted) -> None:
    """A key that stands twice, and a call that the reply's end cuts, are malformed and denied by name."""
    syntax = scripted.syntax
    twice = syntax.encode_call("pay", {"x": "a", "y": "b"}).replace("y", "x")
    turn = scripted.say(twice).run([USER], TOOLS, ())
    (call,) = turn.calls
    assert isinstance(call, MalformedCall)
    assert ("'x' twice" in call.error or "'pax'" in call.error, turn.released) == (True, ())
    turn = scripted.say(syntax.encode_call("pay", {"x": "abc"})).run([USER], TOOLS, (), max_new_tokens=4)
    assert f"before {syntax.call.end}; raise" in turn.calls[0].error  # type: ignore[union-attr]


def test_a_tripwire_ends_the_call_at_its_name(scripted: Scripted) -> None:
    """The rule is certain once the name is written: no argument is generated, and the verdict names the rule."""
    when = {"feature": "f", "above": -1.0, "at": "call.open"}
    rules = [{"name": "never", "tool": "pay", "when": when, "then": "deny", "tripwire": True}]
    policy = planted_policy("tripping", {"f": (1, 3)}, guard={"default": "allow", "rules": rules})
    turn = scripted.say(scripted.syntax.encode_call("pay", {"x": "a"})).run([USER], TOOLS, policy)
    assert (turn.finish, turn.verdicts[0].rule, turn.released) == ("tripwire", "never", ())
    assert not any(place.startswith("call.arguments.") for place in turn.trace.places)
    other = scripted.say(scripted.syntax.encode_call("look", {"x": "a"})).run([USER], TOOLS, policy)
    assert [call.name for call in other.released] == ["look"]


def test_a_stream_says_what_the_turn_holds(scripted: Scripted) -> None:
    """Events add up to the turn's text and calls."""
    runtime = scripted.say("so " + scripted.syntax.encode_call("pay", {"x": "a"}))
    *events, turn = runtime.stream([USER], TOOLS, ())
    assert isinstance(turn, Turn)
    assert "".join(getattr(event, "text", "") for event in events) == turn.text == "so "
    assert tuple(event.call for event in events if hasattr(event, "call")) == turn.calls


def test_a_folder_names_its_dialect_or_is_refused(tmp_path: Path) -> None:
    """With a template that writes another dialect's calls a model is refused, until its folder names the dialect."""
    tokenizer = qwen3()
    tokenizer.chat_template = hermes_template() + "{# <function=NAME> #}"
    write_model(tmp_path, "qwen3", tokenizer)
    with pytest.raises(ModelError, match="writes calls with <function="):
        steerkit.load(tmp_path)
    tokenizer.init_kwargs["call_dialect"] = "hermes"
    tokenizer.save_pretrained(tmp_path)
    assert dialect_of(steerkit.load(tmp_path).loaded.tokenizer).syntax.name == "hermes"
