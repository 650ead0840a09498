"""The tuning learns and goes on where it was stopped; its adapter does the same beside the weights and in them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerkit.errors import ModelError
from tests.real_model.small_base import write_base

ASKED = ("Where is Oslo?", "Where is Riga?", "Where is Lima?", "Where is Perth?", "Open the door", "Hello there")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def tuning(base: Path, folder: Path, tokens: int = 1_500, seed: int = 0) -> Any:
    """A small tuning on short conversations."""
    import trees
    from tune import Recipe, Tuning

    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [
        {"tools": [], "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]}
        for text in ASKED
    ]
    read = [trees.read(row, tokenizer) for row in rows]
    recipe = Recipe(tokens=tokens, seed=seed, rank=4, pack=60, step=80, rate=0.02, row_rate=0.02, save=400)
    return Tuning(
        AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager"), tokenizer, read, recipe, folder
    )


def equal(one: Any, other: Any) -> bool:
    """True if two adapters are equal to the bit."""
    pairs = [(a, b) for name in one.matrices for a, b in zip(one.matrices[name], other.matrices[name], strict=True)]
    return all(torch.equal(a, b) for a, b in [*pairs, (one.rows, other.rows)])


class Stop(Exception):
    """Stands for a kill."""


def test_a_stopped_tuning_gives_the_same_adapter(base: Path, tmp_path: Path) -> None:
    """To the bit, wherever it is stopped. Control: another seed gives another adapter."""
    whole = tuning(base, tmp_path / "whole").run()
    stops = iter((500, 1_000))

    def stopping(limit: int) -> Any:
        def report(tokens: int, measured: Mapping[str, Any]) -> None:
            if tokens > limit:
                raise Stop

        return report

    for limit in stops:
        with pytest.raises(Stop):
            tuning(base, tmp_path / "stopped").run(stopping(limit))
    resumed = tuning(base, tmp_path / "stopped")
    assert resumed.tokens > 400
    assert equal(resumed.run(), whole)
    assert not equal(tuning(base, tmp_path / "other", seed=1).run(), whole)


def test_another_recipe_does_not_go_on(base: Path, tmp_path: Path) -> None:
    tuning(base, tmp_path, tokens=300).run()
    with pytest.raises(ModelError, match="another recipe or other conversations"):
        tuning(base, tmp_path, seed=1)


def test_the_loss_falls(base: Path, tmp_path: Path) -> None:
    """Six replies that are the questions backwards, on random weights: slowly, as only the adapter learns."""
    losses: list[float] = []
    tuning(base, tmp_path, 8_000).run(lambda tokens, found: losses.append(found["loss"]) if found else None)
    assert losses[-1] < losses[0] - 0.5


def test_merged_weights_say_what_the_adapter_says(base: Path, tmp_path: Path) -> None:
    """Control: the base says something else."""
    import trees
    from lora import read_adapter, write_adapter
    from merge import merge

    done = tuning(base, tmp_path / "tuning")
    adapter = done.run()
    write_adapter(adapter, tmp_path / "adapter.safetensors")
    written = read_adapter(tmp_path / "adapter.safetensors")
    assert list(written.ids) == list(adapter.ids)
    assert written.matrices.keys() == adapter.matrices.keys()
    assert torch.allclose(written.rows, adapter.rows, atol=0.01)
    merge(base, adapter, tmp_path / "merged")
    pack = trees.trees_of(done.conversations[:1], 100, random.Random(0))
    laid = trees.laid_out(pack)
    ids = torch.tensor([done.conversations[0].ids])
    with torch.no_grad():
        student = done.student.eval().hidden(laid)[: ids.shape[1]]
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").model(ids).last_hidden_state[0]
        plain = AutoModelForCausalLM.from_pretrained(base).model(ids).last_hidden_state[0]
    assert torch.allclose(student, merged, atol=1e-3)
    assert not torch.allclose(student, plain, atol=0.1)


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    from lora import Adapter, read_adapter
    from merge import merge

    other = Adapter({"model.layers.0.self_attn.q_proj": (torch.zeros(4, 7), torch.zeros(9, 4))}, torch.zeros(1, 7), [3])
    with pytest.raises(ModelError, match=r"expected \(9, 7\) as the adapter has it"):
        merge(base, other, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ModelError, match="expected a safetensors file"):
        read_adapter(tmp_path / "text.safetensors")
