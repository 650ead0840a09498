"""Low-rank adapters on every linear layer, and trainable rows of the control tokens' embeddings."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trees import Laid

from steerkit.chat import dialect_of
from steerkit.errors import ModelError

SCALE: Final = 2.0
"""Alpha divided by rank."""
ROWS: Final = {
    "<start_function_declaration>": "tool function", "<end_function_declaration>": "} \n\n",
    "<start_function_call>": "call ```", "<end_function_call>": ") ```", "<start_function_response>": "result response",
    "<end_function_response>": "\n\n ]", "<escape>": '" `', "<start_of_turn>": "", "<end_of_turn>": "",
}  # fmt: skip
"""Tokens whose embeddings are trained, and words that they begin near to."""
_USUAL_ROWS: Final = (46, 47, 48, 49, 50, 51, 52, 105, 106)
_OFTEN: Final = 3_000
_DRAWN: Final = 3_000


class Adapter(NamedTuple):
    """What was trained."""

    matrices: Mapping[str, tuple[Tensor, Tensor]]
    """By the linear layer's name: `(rank, in)` and `(out, rank)`, float32."""
    rows: Tensor
    """`(n, d_model)` float32."""
    ids: Sequence[int]
    """Tokens of the rows."""
    scale: float = SCALE


class LoraLinear(nn.Module):
    """A frozen linear layer with a low-rank product beside it; begins as the layer it is."""

    def __init__(self, base: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        drawn = torch.randn(rank, base.in_features, generator=generator) / math.sqrt(base.in_features)
        self.a = nn.Parameter(drawn.to(base.weight.device))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output with the low-rank product's."""
        return self.base(x) + linear(linear(x, self.a.to(x.dtype)), (self.b * SCALE).to(x.dtype))


class Student(nn.Module):
    """A model in training: every linear layer of its blocks has a low-rank adapter, and some embeddings are its own."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rank: int, seed: int) -> None:
        super().__init__()
        self.model = model
        model.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        self.adapted = _adapt(model, rank, generator)
        names = dialect_of(tokenizer).names
        self.ids = [names[name] for name in ROWS]
        self.rows = nn.Parameter(_first_rows(model, tokenizer, self.ids))
        where = torch.full((model.config.vocab_size,), -1)
        where[self.ids] = torch.arange(len(self.ids))
        self.register_buffer("where", where.to(model.device), persistent=False)

    def hidden(self, laid: Laid) -> Tensor:
        """`(n, d_model)` last hidden states of a pack."""
        embed = self.model.get_input_embeddings()
        found, at = embed(laid.ids), self.where[laid.ids]
        rows = (self.rows * math.sqrt(self.model.config.hidden_size)).to(found.dtype)
        found = torch.where((at >= 0)[..., None], rows[at.clamp(min=0)], found)
        mask = torch.zeros(laid.mask.shape, dtype=found.dtype, device=found.device)
        mask.masked_fill_(~laid.mask, torch.finfo(found.dtype).min)
        masks = {"full_attention": mask, "sliding_attention": mask}
        made = self.model.model(inputs_embeds=found, position_ids=laid.positions, attention_mask=masks, use_cache=False)
        return made.last_hidden_state[0]

    def loss(self, laid: Laid, columns: Columns) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy of the wanted tokens over some of the vocabulary, and how many are the likeliest."""
        hidden = self.hidden(laid)[laid.wanted - 1]
        logits = torch.cat([hidden @ self.rows.to(hidden.dtype).T, hidden @ columns.table.T], 1).float()
        wanted = columns.number[laid.ids[0, laid.wanted]]
        return cross_entropy(logits, wanted, reduction="sum"), (logits.argmax(1) == wanted).sum()

    def adapter(self) -> Adapter:
        """What was trained so far."""
        matrices = {name: (one.a.detach().clone(), one.b.detach().clone()) for name, one in self.adapted.items()}
        return Adapter(matrices, self.rows.detach().clone(), self.ids)


class Columns(NamedTuple):
    """Part of the vocabulary that a softmax goes over: all of it would cost as much as the model."""

    table: Tensor
    """`(n, d_model)`, of the tokens that are not trained."""
    number: Tensor
    """`(vocabulary,)` the column of each token, -1 where it has none. The trained rows come first."""


class Vocabulary:
    """The tokens that a softmax goes over: the trained ones, those that occur, frequent ones, and some drawn anew."""

    def __init__(self, student: Student, occurring: set[int]) -> None:
        self._table, self._rows = student.model.get_input_embeddings().weight, list(student.ids)
        size = len(self._table)
        fixed = (occurring | set(range(min(_OFTEN, size)))) - set(self._rows)
        self._fixed = sorted(fixed)
        self._others = sorted(set(range(size)) - fixed - set(self._rows))

    def columns(self, seed: str) -> Columns:
        """The columns of one step."""
        drawn = random.Random(seed).sample(self._others, min(_DRAWN, len(self._others)))
        ids = torch.tensor([*self._fixed, *drawn], device=self._table.device)
        number = torch.full((len(self._table),), -1, device=self._table.device)
        number[self._rows] = torch.arange(len(self._rows), device=number.device)
        number[ids] = torch.arange(len(ids), device=number.device) + len(self._rows)
        return Columns(self._table[ids], number)


def write_adapter(adapter: Adapter, path: Path) -> None:
    """Write an adapter as safetensors, in bfloat16; the whole file or none."""
    tensors = {"rows": adapter.rows}
    for name, (a, b) in adapter.matrices.items():
        tensors |= {f"{name}.a": a, f"{name}.b": b}
    part = path.with_suffix(".part")
    meta = {"scale": str(adapter.scale), "rows": json.dumps(list(adapter.ids))}
    save_file({name: t.to("cpu", torch.bfloat16).contiguous() for name, t in tensors.items()}, part, metadata=meta)
    part.replace(path)


def read_adapter(path: Path) -> Adapter:
    """Read an adapter that `write_adapter` wrote.

    Raises:
        ModelError: it is no such file.
    """
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            found = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except Exception as error:  # safetensors has an error of its own beside OSError
        raise ModelError(f"{path}: got no adapter ({error}); expected a safetensors file that build.py wrote") from None
    pairs = {}
    for name, a in found.items():
        if name.endswith(".a"):
            if f"{name[:-2]}.b" not in found:
                raise ModelError(f"{path}: got {name} without its other half, expected {name[:-2]}.b beside it")
            pairs[name[:-2].replace("model.model.", "model.", 1)] = a, found[f"{name[:-2]}.b"]
    if not pairs or "rows" not in found:
        raise ModelError(
            f"{path}: got the tensors {', '.join(list(found)[:3])} …, expected rows and pairs named a and b"
        )
    ids = json.loads(meta.get("rows", json.dumps(_USUAL_ROWS)))
    return Adapter(pairs, found["rows"], ids, float(meta.get("scale", SCALE)))


def _adapt(model: PreTrainedModel, rank: int, generator: torch.Generator) -> dict[str, LoraLinear]:
    names = [name for name, part in model.named_modules() if type(part) is nn.Linear and ".layers." in name]
    found = {}
    for name in names:
        parent, _, leaf = name.rpartition(".")
        found[name] = LoraLinear(model.get_submodule(name), rank, generator)  # type: ignore[arg-type]
        setattr(model.get_submodule(parent), leaf, found[name])
    return found


def _first_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> Tensor:
    """The rows as they are, moved towards words of a like meaning: the base never saw these tokens."""
    table = model.get_input_embeddings().weight
    rows = table[list(ids)].float().clone()
    for number, words in enumerate(ROWS.values()):
        tokens = [tokenizer.encode(word, add_special_tokens=False)[0] for word in words.split(" ") if word]
        if tokens:
            mixed = table[tokens].float().mean(0) + 0.5 * rows[number]
            rows[number] = mixed / mixed.norm() * rows[number].norm()
    return rows
