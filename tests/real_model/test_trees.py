"""Conversations become tokens, trees and packs, and lose nothing on the way."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerkit.chat import parse
from steerkit.types import Call
from tests.real_model.small_base import write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """A few conversations of each kind."""
    import dataset
    from conversations import AGENT, FOREIGN, INVENTED, Writer, of_agent, of_all_kinds, of_invented

    writer = Writer(5, "tune")
    agent = dataset._some(writer.groups(AGENT, of_agent, 4), 60)
    functions = dataset._some(writer.groups(FOREIGN, of_all_kinds, 4), 40)
    return agent + functions + dataset._some(writer.groups(INVENTED, of_invented, 4), 40)


def test_rendered_and_parsed_is_what_was_written(rows: list[dict[str, Any]], tokenizer: Any) -> None:
    """The wanted tokens are the model's replies, stops included; steerkit's parser reads the same calls and text."""
    import trees

    for row in rows:
        read = trees.read(row, tokenizer)
        assert read.shared < min(read.wanted)
        replies = [message for message in row["messages"] if message["role"] == "assistant"]
        begins, ends = ([n for n in read.wanted if n + by not in read.wanted] for by in (-1, 1))
        assert len(begins) == len(replies)
        for first, last, reply in zip(begins, ends, replies, strict=True):
            parsed = parse(tokenizer, read.ids[first : last + 1])
            wanted = [(c["function"]["name"], c["function"]["arguments"]) for c in reply.get("tool_calls", ())]
            assert [(c.name, dict(c.arguments)) for c in parsed.calls if isinstance(c, Call)] == wanted
            assert len(parsed.calls) == len(wanted)
            assert parsed.text == reply.get("content", "")


def test_packs_hold_every_conversation_once_an_epoch(rows: list[dict[str, Any]], tokenizer: Any) -> None:
    import trees

    read = [trees.read(row, tokenizer) for row in rows]
    stream, seen = trees.packs(read, 1_500, 0), []
    while len(seen) < len(read):
        for tree in next(stream):
            seen += [tree.prefix + ids for ids, _ in tree.branches]
    assert sorted(seen) == sorted(one.ids for one in read)
    shared = sum(tree.size for tree in trees.trees_of(read, 4_000, random.Random(0)))
    assert shared < 0.8 * sum(len(one.ids) for one in read)


def test_a_tree_gives_the_logits_of_its_conversations(base: Path, rows: list[dict[str, Any]], tokenizer: Any) -> None:
    """Branches of a pack see their prefix and themselves alone. Control: with a plain causal mask they do not agree."""
    import trees
    from lora import Student

    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval()
    read = sorted((trees.read(row, tokenizer) for row in rows), key=lambda one: len(one.ids))[:12]
    pack = trees.trees_of(read, 10_000, random.Random(0))
    assert max(len(tree.branches) for tree in pack) > 1
    student = Student(model, tokenizer, rank=2, seed=0)
    with torch.no_grad():
        student.rows.copy_(model.get_input_embeddings().weight[student.ids])
        laid = trees.laid_out(pack)
        together = student.hidden(laid)
        causal = torch.ones_like(laid.mask).tril()
        wrong = student.hidden(laid._replace(mask=causal))
        at = 0
        for tree in pack:
            start, at = at, at + len(tree.prefix)
            for number, (ids, _) in enumerate(tree.branches):
                alone = model.model(torch.tensor([tree.prefix + ids])).last_hidden_state[0]
                assert torch.allclose(together[start : start + len(tree.prefix)], alone[: len(tree.prefix)], atol=1e-4)
                assert torch.allclose(together[at : at + len(ids)], alone[len(tree.prefix) :], atol=1e-4)
                if number:
                    assert not torch.allclose(wrong[at : at + len(ids)], alone[len(tree.prefix) :], atol=1e-2)
                at += len(ids)
