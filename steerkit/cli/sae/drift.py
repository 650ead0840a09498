"""`steerkit sae health --against MODEL`: whether SAEs, and what policies read of them, hold on another model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerkit.cli.loading import progress
from steerkit.errors import SaeError
from steerkit.report import console, drift_json, print_json, say_line, show_drift

if TYPE_CHECKING:
    from steerkit.engine import LoadedModel
    from steerkit.lab import Corpus
    from steerkit.policy import Policy
    from steerkit.sae import SaeSet

Against = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Compare with this model instead, such as one tuned from the SAEs' own: errors, features that died or "
        "changed.",
    ),
]
AgainstPolicies = Annotated[
    list[Path] | None,
    typer.Option(metavar="POLICY", help="With --against: compare what its conditions read, too."),
]
Positive = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Conversations that --policy's conditions are to find (AUROC).")
]
Negative = Annotated[Path | None, typer.Option(metavar="FILE", help="Conversations that they are to leave alone.")]


def check_against(
    against: str | None, policies: list[Path], sets: tuple[Path | None, Path | None], figure: Path | None
) -> list[Policy]:
    """The policies whose readings are compared. Raises SaeError for options that do not go together."""
    from steerkit.lab import check_extra
    from steerkit.policy import load

    positive, negative = sets
    if against is None:
        given = {"--policy": policies, "--positive": positive, "--negative": negative}
        if alone := next((name for name, value in given.items() if value), None):
            raise SaeError(f"{alone}: got it without --against; name the other model with --against MODEL")
        return []
    if figure is not None:
        raise SaeError("--figure: it draws the health on one model; give it without --against")
    if (positive is None) != (negative is None):
        missing = "--positive" if positive is None else "--negative"
        raise SaeError(f"{missing}: got only the other set, expected both: conversations to tell apart")
    if positive is not None and not policies:
        raise SaeError("--positive: got no --policy; expected the policy whose conditions tell the sets apart")
    check_extra("comparing models")
    return [load(path) for path in policies]


def show(
    loaded: LoadedModel,
    saes: SaeSet,
    corpus: Corpus,
    against: str,
    policies: list[Policy],
    sets: tuple[Path | None, Path | None],
    limit: int | None,
    *,
    json: bool,
) -> None:
    """Compare, and print."""
    from steerkit.engine import load_model
    from steerkit.lab.train.health import FACTOR, changed_features, drift, reading_drifts

    positive, negative = sets
    files: dict[bool | None, Path] = {None: Path(corpus.source)}
    if positive is not None and negative is not None:
        files = {True: positive, False: negative}
    device, dtype = loaded.model.device, loaded.model.dtype
    other = load_model(against, device=device, dtype=dtype, prepack=False)
    _note_tokens(loaded, other, corpus)
    with progress(corpus.tokens, "tokens") as report:
        sites = drift(loaded.model, other.model, saes, corpus.texts, report=report)
    readings = reading_drifts(loaded, other, saes, policies, files, limit=limit) if policies else []
    features = {policy.name: changed_features(sites, policy) for policy in policies}
    if json:
        for row in drift_json(sites, readings, features):
            print_json(row)
    else:
        show_drift(console(), sites, readings, features, FACTOR)


def _note_tokens(loaded: LoadedModel, other: LoadedModel, corpus: Corpus) -> None:
    """Say which tokens of the data the other model's tokenizer calls otherwise: both models read the same ids."""
    used = sorted({token for text in corpus.texts for token in text})
    names = [one.tokenizer.convert_ids_to_tokens(used) for one in (loaded, other)]
    renamed = [f"{mine} is {theirs}" for mine, theirs in zip(*names, strict=True) if mine != theirs]
    if 2 * len(renamed) > len(used):
        raise SaeError(
            f"{other.name}: its tokenizer calls {len(renamed):,} of the data's {len(used):,} tokens otherwise; "
            f"expected a model of the same vocabulary, such as one tuned from {loaded.name}"
        )
    if renamed:
        say_line(f"note: in the other model's tokenizer {', '.join(renamed[:4])}{' …' * (len(renamed) > 4)}")
