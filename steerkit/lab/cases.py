"""Conversations as prompt and reply, the steps of each at a place, and what the features show there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from steerkit.chat import as_tools, dialect_of, render, steps_by_place
from steerkit.engine import LoadedModel, tool_from_function
from steerkit.errors import SaeError, SteerkitError
from steerkit.guard import windowed
from steerkit.lab.copies import said
from steerkit.lab.corpus import Conversation, read_corpus
from steerkit.lab.reader import ActivationReader
from steerkit.lab.replies import replies
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.steer import Latent, columns_of, find_sites, in_order, read_features
from steerkit.types import PROMPT_PLACES, Place

L = TypeVar("L", bound=Latent)

MOST_BYTES: Final = 2 << 30
"""Largest table of maxima: conversations times features times 4 bytes."""

_TOKENS_AT_ONCE: Final = 512
_TOKENS_A_PART: Final = 8_192


class Case(NamedTuple):
    """One conversation, cut where a model's last words begin."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...] = ()
    """The stop token included; empty where nothing was written, or only the prompt counts."""
    steps: tuple[int, ...] = ()
    """The steps at the place that is asked for."""
    group: str | None = None
    """The group that its row names."""
    said: str = ""
    """By which near-copies are known (see `copies.said`)."""

    @property
    def read(self) -> tuple[int, ...]:
        """The tokens that the model reads: all but the reply's last."""
        return self.prompt + self.reply[:-1]


def needs_reply(place: Place) -> bool:
    """True if steps after the prompt may stand at a place."""
    return place not in PROMPT_PLACES and place != "reply.start"


def read_cases(
    path: Path, loaded: LoadedModel, place: Place, *, limit: int | None = None, max_new_tokens: int = 128
) -> tuple[list[Case], int]:
    """The conversations of a file that have a step at a place, and how many others there are.

    At a place in the reply the last message, where it is the assistant's, is read as if the model had written it
    (teacher forcing); where it is not, the model answers greedily.

    Raises:
        SaeError: the file cannot be read, holds texts without messages, or a reply that no prompt leads to.
    """
    corpus = read_corpus(path, loaded, limit=limit)
    if not corpus.conversations:
        raise SaeError(
            f'{path}: got texts, expected conversations: lines such as {{"messages": [...], "tools": [...]}}'
        )
    cases = [_case(f"{path}[{number}]", one, loaded, place) for number, one in enumerate(corpus.conversations)]
    if needs_reply(place):
        silent = [number for number, case in enumerate(cases) if not case.reply]
        written = replies(loaded, [cases[number].prompt for number in silent], max_new_tokens)
        for number, reply in zip(silent, written, strict=True):
            cases[number] = cases[number]._replace(reply=tuple(reply))
    placed = [case._replace(steps=steps_at(loaded, case, place)) for case in cases]
    found = [case for case in placed if case.steps]
    return found, len(cases) - len(found)


def steps_at(loaded: LoadedModel, case: Case, place: Place) -> tuple[int, ...]:
    """The steps of a conversation at a place, in order."""
    spans = steps_by_place(loaded.tokenizer, case.prompt, case.reply).get(place, ())
    return tuple(step for span in spans for step in range(*span))


def _case(where: str, one: Conversation, loaded: LoadedModel, place: Place) -> Case:
    tools = as_tools(one.tools, from_function=tool_from_function)
    try:
        prompt = render(loaded.tokenizer, one.asked, tools).ids
        case = Case(prompt, group=one.group, said=said(one.asked))
        if not needs_reply(place) or len(one.asked) == len(one.messages):
            return case
        complete = render(loaded.tokenizer, one.messages, tools).ids
    except SteerkitError as error:
        raise SaeError(f"{where}: {error}") from None
    if complete[: len(prompt)] != prompt:
        raise SaeError(
            f"{where}: the last message does not go on where the prompt before it ends; leave it out, so that the "
            f"model answers by itself"
        )
    stops = dialect_of(loaded.tokenizer).stops
    reply = complete[len(prompt) :]
    end = next((number for number, token in enumerate(reply) if token in stops), len(reply) - 1)
    return case._replace(reply=reply[: end + 1])


StepsRead: TypeAlias = tuple[Tensor, dict[Site, Tensor]]
"""Some conversations' steps: whose each is, `(tokens,)`, and `(tokens, d_in)` activations by site."""

Report = Callable[[int, int], None]
"""Callback for progress: conversations that were read, and how many there are."""


def check_size(saes: SaeSet, count: int) -> None:
    """Raise SaeError where the table of `count` conversations would exceed `MOST_BYTES`."""
    features = sum(sae.d_sae for sae in saes.values())
    if 4 * features * count > MOST_BYTES:
        raise SaeError(
            f"got {count:,} conversations, whose {features:,} features each are more than {MOST_BYTES >> 30} GiB; "
            f"expected at most {MOST_BYTES // (4 * features):,}; give --limit {MOST_BYTES // (8 * features)}"
        )


class PlaceValues(NamedTuple):
    """Feature values at a place, by layer."""

    largest: dict[Site, Tensor]
    """`(n, d_sae)` float32: the largest value over the steps of each conversation."""
    mean: dict[Site, Tensor]
    """`(d_sae,)` float32: the mean over all steps of some of them."""
    activations: dict[Site, Tensor]
    """`(n, d_in)` float32: what the SAEs read, its mean over the steps of each conversation."""


def place_maxima(
    loaded: LoadedModel,
    saes: SaeSet,
    cases: Sequence[Case],
    mean_of: Collection[int] = (),
    report: Report | None = None,
) -> PlaceValues:
    """The features of all layers at the steps of each conversation, and their mean over the conversations `mean_of`.

    One pass of the model. Held are the tables of largest values (`n * features * 4` bytes) and of mean activations, the
    activations of 8,192 tokens (or of one longer conversation) in all layers, and the features of 512 tokens of one
    layer. Raises SaeError where the table of largest values is larger than `MOST_BYTES`.
    """
    check_size(saes, len(cases))
    largest = {site: torch.zeros(len(cases), sae.d_sae) for site, sae in saes.items()}
    activations = {site: torch.zeros(len(cases), sae.d_in) for site, sae in saes.items()}
    steps = torch.tensor([len(case.steps) for case in cases]).clamp(min=1).unsqueeze(-1)
    sums = {site: torch.zeros(sae.d_sae, dtype=torch.float64) for site, sae in saes.items()}
    placed = {site: sae.to(loaded.site_devices[site]) for site, sae in saes.items()}
    counted = torch.tensor([number in mean_of for number in range(len(cases))])
    for rows, by_layer in step_activations(loaded, saes, cases, report):
        for site, x in by_layer.items():
            activations[site].index_add_(0, rows, x.float().cpu())
            for part, owners in zip(x.split(_TOKENS_AT_ONCE), rows.split(_TOKENS_AT_ONCE), strict=True):
                values = placed[site].encode(part).cpu()
                raise_to(values, owners, largest[site])
                sums[site] += values[counted[owners]].sum(dim=0, dtype=torch.float64)
    count = max(1, sum(len(cases[number].steps) for number in mean_of))
    means = {site: (total / count).float() for site, total in sums.items()}
    return PlaceValues(largest, means, {site: total / steps for site, total in activations.items()})


def sum_maxima(
    loaded: LoadedModel, saes: SaeSet | None, cases: Sequence[Case], weights: Mapping[L, float], bias: float
) -> Tensor:
    """`(n,)` the largest value over each conversation's steps of a weighted sum of features and directions.

    This is what a policy reads of a probe: the largest sum, which is not the sum of the largest values.
    """
    named = dict[Latent, float](weights.items())

    def sums(site: Site, x: Tensor) -> Tensor:
        used = in_order({latent for latent in named if latent.site == site})
        columns = columns_of(site, used, saes, loaded.site_devices[site])
        parts = [read_features(part, columns).cpu() for part in x.split(_TOKENS_AT_ONCE)]
        return torch.cat(parts) @ torch.tensor([named[latent] for latent in used])

    (found,) = largest_sums(loaded, cases, {latent.site for latent in named}, sums, bias)
    return found


def largest_sums(
    loaded: LoadedModel,
    cases: Sequence[Case],
    sites: Collection[Site],
    value: Callable[[Site, Tensor], Tensor],
    bias: float,
    windows: Sequence[int | None] = (None,),
    kept: Sequence[StepsRead] = (),
) -> list[Tensor]:
    """By window, `(n,)` the largest sum over each conversation's steps of `bias` and of a value of each site, or the
    largest mean of the sums over so many tokens, as a policy's `mean_over` takes it.

    `value` takes a site and its activations `(tokens, width)`, and returns `(tokens,)` on the CPU. What was `kept` is
    not read again.
    """
    sums = dict[int, tuple[Tensor, Tensor]]()
    for some in of_one_width(loaded, sites):
        for number, (rows, by_site) in enumerate(kept or step_activations(loaded, some, cases, None)):
            total = sums[number][1] if number in sums else torch.full((len(rows),), bias)
            for site in some:
                total = total + value(site, by_site[site])
            sums[number] = rows, total
    found = torch.full((len(windows), len(cases)), -torch.inf)
    for rows, total in sums.values():
        which, counts = rows.unique_consecutive(return_counts=True)
        for row, part in zip(which.tolist(), total.split(counts.tolist()), strict=True):
            for number, window in enumerate(windows):
                if window is None:
                    found[number, row] = part.amax()
                    continue
                here = dict(zip(cases[row].steps, part.tolist(), strict=True))
                found[number, row] = max(windowed(here, window).values())
    return list(found)


def sums_at(
    loaded: LoadedModel,
    saes: SaeSet,
    cases: Sequence[Case],
    table: Mapping[Site, Tensor],
    weights: Mapping[L, float],
    bias: float,
) -> Tensor:
    """`sum_maxima`, without a pass where the table of largest features has all that is summed: of a single step."""
    total = torch.full((len(cases),), bias)
    for latent, weight in weights.items():
        if not isinstance(latent, Feature) or any(len(case.steps) > 1 for case in cases):
            return sum_maxima(loaded, saes, cases, weights, bias)
        total = total + weight * table[latent.site][:, latent.index]
    return total


def of_one_width(loaded: LoadedModel, sites: Collection[Site]) -> Iterator[list[Site]]:
    """The sites in causal order, those of one width together, as they are read together."""
    width = find_sites(loaded.model).width
    for _, some in groupby(sorted(sites, key=lambda site: (width(site) or 0, site.order)), key=width):
        yield list(some)


def step_activations(
    loaded: LoadedModel, sites: Collection[Site], cases: Sequence[Case], report: Report | None
) -> Iterator[StepsRead]:
    """The steps' activations, some conversations at a time.

    Texts end at their last step, as later tokens are not asked for.
    """
    texts = [case.read[: case.steps[-1] + 1] for case in cases]
    for numbers in _parts([len(text) for text in texts]):
        steps = [cases[number].steps for number in numbers]
        kept = _read(loaded, list(sites), [texts[number] for number in numbers], steps)
        rows = [number for number, some in zip(numbers, steps, strict=True) for _ in some]
        yield torch.tensor(rows), dict(zip(sites, kept, strict=True))
        if report is not None:
            report(numbers[-1] + 1, len(cases))


def _read(
    loaded: LoadedModel, sites: Sequence[Site], texts: Sequence[Sequence[int]], steps: Sequence[Sequence[int]]
) -> Tensor:
    """Activations `(sites, steps of all texts, width)`, of the engine beside the model where that can read them."""
    if loaded.serving is not None and (found := loaded.serving.activations(texts, steps, sites)) is not None:
        return found
    values, starts = ActivationReader(loaded.model, sites)(texts), accumulate(map(len, texts), initial=0)
    places = [start + step for start, some in zip(starts, steps, strict=False) for step in some]
    return values[:, torch.tensor(places, device=values.device)]


def _parts(lengths: Sequence[int]) -> Iterator[list[int]]:
    part: list[int] = []
    for number, length in enumerate(lengths):
        if part and sum(lengths[one] for one in part) + length > _TOKENS_A_PART:
            yield part
            part = []
        part.append(number)
    if part:
        yield part


def raise_to(values: Tensor, owners: Tensor, into: Tensor) -> None:
    """Raise the rows of `into` `(n, F)` to the largest of their `values` `(tokens, F)`; `owners` says whose each is."""
    which, counts = owners.unique_consecutive(return_counts=True)
    for row, some in zip(which.tolist(), values.split(counts.tolist()), strict=True):
        torch.maximum(into[row], some.amax(dim=0), out=into[row])
