"""One feature over a corpus: where it is strongest, with the words around, and how often it fires."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steerkit.chat import Tokenizer
from steerkit.errors import SaeError
from steerkit.lab.corpus import token_texts
from steerkit.lab.feature_statistics import FeatureCounts
from steerkit.lab.reader import ActivationReader
from steerkit.sae import SaeSet
from steerkit.sites import Feature
from steerkit.steer import read_features

_TOKENS: Final = 2_048  # encoded at a time, because a TopK SAE is encoded as a whole


class Context(NamedTuple):
    """One text around its strongest token."""

    text: int
    """Index of the text in the corpus."""
    position: int
    """Position of the strongest token in the text; of equally strong ones the first."""
    value: float
    """Its raw activation."""
    start: int
    """Position of the first token here."""
    tokens: tuple[str, ...]
    """The tokens as text; a character spread over several stands at its last, so that joined they are the text."""
    values: tuple[float, ...]
    """Raw activation at each."""


class FeatureContexts(NamedTuple):
    """A feature over a corpus: its counts and its strongest contexts."""

    feature: Feature
    tokens: int
    """Tokens of the corpus."""
    active: int
    """Tokens at which the feature is above 0."""
    statistics: Mapping[str, float]
    """Its `max, mean, std, density` and quantiles over these tokens, as `lab/feature_statistics.py` computes them."""
    best: tuple[Context, ...]
    """Strongest first; of equal ones the earlier text. None where the feature is 0 everywhere."""


@torch.inference_mode()
def feature_contexts(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    saes: SaeSet,
    feature: Feature,
    texts: Sequence[Sequence[int]],
    *,
    top: int = 10,
    around: int = 12,
    report: Callable[[int], None] | None = None,
) -> FeatureContexts:
    """The texts in which a feature is strongest, with up to `around` tokens on each side of the strongest one.

    A text gives one context at most. Texts whose tokens there are the same give one together: a tool's declaration
    that stands in every conversation is shown once.

    Only the feature's own column is computed (all of them for a TopK SAE), the model runs no further than its layer,
    and what is held besides the texts does not grow with them.

    Args:
        model: the model that the set was loaded for.
        tokenizer: its tokenizer.
        saes: the set.
        feature: which of its features.
        texts: token ids of each; one without tokens is passed over.
        top: how many contexts at most.
        around: how many tokens on each side at most.
        report: callback for progress, in tokens.

    Raises:
        SaeError: the set has no such feature, or there is no token to read.
    """
    saes.check(feature)
    if not any(map(len, texts)):
        raise SaeError(f"{feature}: got no tokens to read it over, expected a text")
    counts, found, active = FeatureCounts(1), _Strongest(top), 0
    for text, values in _values(model, saes, feature, texts):
        counts.add(values.unsqueeze(1))
        active += int((values > 0).sum())
        value, position = float(values.max()), int(values.argmax())
        start, end = max(0, position - around), position + around + 1
        if value > 0:
            near = tuple(values[start:end].tolist())
            found.offer(tuple(texts[text][start:end]), _Found(value, -text, position, start, near))
        if report is not None:
            report(counts.tokens)
    statistics = {name: float(table) for name, table in counts.result().items()}
    best = tuple(_context(tokenizer, texts, one) for one in found.in_order())
    return FeatureContexts(feature, counts.tokens, active, statistics, best)


def _values(
    model: PreTrainedModel, saes: SaeSet, feature: Feature, texts: Sequence[Sequence[int]]
) -> Iterator[tuple[int, Tensor]]:
    """Each text that has tokens, with the feature's value at each of them, `(length,)` float32 on the CPU."""
    sae = saes[feature.site]
    columns = sae.columns(torch.tensor([feature.index])).to(model.device)
    numbers = iter([number for number, text in enumerate(texts) if len(text)])
    reader = ActivationReader(model, [feature.site])
    for chunk in reader.chunks([text for text in texts if len(text)]):
        values = torch.cat([read_features(part, columns) for part in chunk[0].split(_TOKENS)]).squeeze(1).cpu()
        while len(values):
            number = next(numbers)
            yield number, values[: len(texts[number])]
            values = values[len(texts[number]) :]


class _Found(NamedTuple):
    """A context that may be among the strongest; the greater tuple is the better one."""

    value: float
    text_down: int
    """The text's index, negated."""
    position: int
    start: int
    values: tuple[float, ...]


def _context(tokenizer: Tokenizer, texts: Sequence[Sequence[int]], one: _Found) -> Context:
    text = -one.text_down
    tokens = token_texts(tokenizer, texts[text])[one.start : one.start + len(one.values)]
    return Context(text, one.position, one.value, one.start, tokens, one.values)


class _Strongest:
    """The strongest contexts so far, one for each run of tokens."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._found: dict[tuple[int, ...], _Found] = {}

    def offer(self, tokens: tuple[int, ...], one: _Found) -> None:
        """Keep it where it is among the strongest.

        One that fell out comes back only by a higher value than all of its kind before, so nothing is missed.
        """
        self._found[tokens] = max(one, self._found.get(tokens, one))
        if len(self._found) > self._top:
            del self._found[min(self._found, key=self._found.__getitem__)]

    def in_order(self) -> list[_Found]:
        """Strongest first."""
        return sorted(self._found.values(), reverse=True)
