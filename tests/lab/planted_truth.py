"""A small model and SAEs in which it is known what tells two sets of conversations apart, and what of it acts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final, NamedTuple, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steerkit.chat import as_tools, dialect_of, render
from steerkit.engine import LoadedModel, load_model, tool_from_function
from steerkit.lab.activations import collect
from steerkit.lab.cases import Case
from steerkit.lab.material import Material, read_material
from steerkit.lab.prefilled import Prefilled
from steerkit.sae import SaeSet
from steerkit.sites import Feature
from steerkit.testing import planted_saes, small_model, unread, written_for
from steerkit.tiny.world.conversations import sample

CAUSE, BYSTANDER = Feature(2, 0), Feature(1, 0)
"""Both tell the sets apart; what the bystander's layer writes reaches nothing."""


class Planted(NamedTuple):
    """A model, its SAEs and two sets of conversations."""

    loaded: LoadedModel
    saes: SaeSet
    positives: list[Case]
    negatives: list[Case]

    def material(self, seed: int = 0) -> Material:
        """Read and split."""
        return read_material(self.loaded, self.saes, self.positives, self.negatives, seed=seed)

    def shuffled(self, seed: int) -> Planted:
        """The same conversations, each in a set drawn by lot."""
        cases = [*self.positives, *self.negatives]
        order = torch.randperm(len(cases), generator=torch.Generator().manual_seed(seed)).tolist()
        half = len(self.positives)
        mixed = [cases[number] for number in order]
        return self._replace(positives=mixed[:half], negatives=mixed[half:])


def cases(loaded: LoadedModel, kind: str, count: int) -> list[Case]:
    """Prompts of the box's world, read at their last token."""
    found = []
    for one in sample(kind, "select", count):
        ids = render(loaded.tokenizer, one.messages, as_tools(one.tools, from_function=tool_from_function)).ids
        found.append(Case(ids, (), (len(ids) - 1,)))
    return found


@cache
def planted(count: int = 60) -> Planted:
    """Feature 0 of layers 1 and 2 reads what tells the sets apart; only layer 2's makes a call more likely."""
    tokenizer = load_model("tiny").tokenizer
    model = cast(PreTrainedModel, small_model(seed=1, vocab_size=len(tokenizer)))
    unread(model, BYSTANDER.layer)
    loaded = LoadedModel("small", None, model, tokenizer)
    positives, negatives = cases(loaded, "dangerous:transfer_money", count), cases(loaded, "benign", count)
    apart = _directions(model, positives, negatives)
    call = dialect_of(tokenizer).call
    embeddings = cast(Tensor, model.get_input_embeddings().weight)
    written_for(model, call, 20 * embeddings.std() * apart[CAUSE.layer][0])
    return Planted(loaded, planted_saes(model, directions=apart), positives, negatives)


def on_features(material: Material) -> Material:
    """The material without raw activations: its conditions are on features."""
    return replace(material, activations={})


OFFSET: Final = {1: 2.0, 2: 6.5}
"""By the number of layers whose flip it takes, what speaks for a call in every conversation; a layer weighs 5.66."""


@cache
def planted_over_layers(flips: int, count: int = 40) -> Planted:
    """A call is decided by what layers 1 and 2 each write along one direction, and it takes so many of them to turn it.

    The norm after a layer's attention bounds what that writes, so that no edit of one layer outweighs both others: the
    constant that the last token's embedding adds, and the other layer. Positives are those with most along it.
    """
    tokenizer = load_model("tiny").tokenizer
    model = cast(PreTrainedModel, small_model(seed=1, vocab_size=len(tokenizer)))
    unread(model, 0)
    for layer in range(3):
        silent = model.get_submodule(f"model.layers.{layer}.post_feedforward_layernorm")
        torch.nn.init.constant_(cast(torch.nn.Parameter, silent.weight), -1.0)
    loaded = LoadedModel("small", None, model, tokenizer)
    some = [case for kind in ("dangerous:transfer_money", "benign") for case in cases(loaded, kind, 2 * count)]
    along, constant = torch.linalg.qr(torch.randn(32, 2, generator=torch.Generator().manual_seed(0))).Q.T
    embeddings = cast(Tensor, model.get_input_embeddings().weight)
    with torch.no_grad():
        embeddings[some[0].prompt[-1]] = OFFSET[flips] / 32**0.5 * constant
    written_for(model, dialect_of(tokenizer).call, 50 * (along + constant))
    order = Prefilled(loaded, some, "reply.start").outcome().scores.argsort(descending=True).tolist()
    saes = planted_saes(model, directions=dict.fromkeys((1, 2), (along, 0.0)))
    return Planted(loaded, saes, [some[row] for row in order[:count]], [some[row] for row in order[-count:]])


def _directions(
    model: PreTrainedModel, positives: list[Case], negatives: list[Case]
) -> dict[int, tuple[Tensor, float]]:
    """By layer, the direction along which the last tokens of the sets lie apart most, by Fisher, and the middle."""
    found = {}
    texts = [case.prompt for case in [*positives, *negatives]]
    ends = torch.tensor([len(text) for text in texts]).cumsum(0) - 1
    for layer, values in zip((1, 2), collect(model, texts, (1, 2)), strict=True):
        one, other = values[ends].split([len(positives), len(negatives)])
        within = torch.cov(torch.cat([one - one.mean(0), other - other.mean(0)]).T)
        ridge = 1e-3 * within.diagonal().mean() * torch.eye(len(within))
        apart = torch.linalg.solve(within + ridge, one.mean(0) - other.mean(0))
        apart = torch.nn.functional.normalize(apart, dim=0)
        found[layer] = apart, float(apart @ (one.mean(0) + other.mean(0)) / 2)
    return found
