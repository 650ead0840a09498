"""Runtimes by the names of their model and SAEs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from steerkit.agent.api import Runtime
from steerkit.audit import OnFailure, OnRecord, RecordedTurn, Store, default_store
from steerkit.engine import DEFAULT, LoadedModel, Prepack, Prepare, box_folder, load_model
from steerkit.errors import SaeError, SteeringError
from steerkit.runtime import PolicyLike, raises_setting_errors
from steerkit.sae import SaeSet, load_set
from steerkit.steer import TABLE, find_sites


@raises_setting_errors
def load(
    model: str | Path = "tiny",
    saes: str | Path | SaeSet | None = None,
    policy: PolicyLike | None = None,
    *,
    base: PolicyLike = (),
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    revision: str | None = None,
    saes_revision: str | None = None,
    audit: str | Path | Store | Literal[False] | None = None,
    untrusted: Literal["neutralize", "refuse"] = "neutralize",
    on_audit_failure: OnFailure = "block",
    on_record: OnRecord | None = None,
    counterfactual: bool = False,
    required_over_steering: bool = False,
    prefix_cache: str | int | bool = DEFAULT,
    prepack: Prepack = "auto",
    graphs: Prepare = "auto",
) -> Runtime:
    """A runtime on a model.

    Args:
        model: `tiny` (the model in the box), a folder, or a hub repository.
        saes: a folder or hub repository of SAEs, or a set; the box brings its own.
        policy: a policy, the path of a policy file, or several; a request may bring its own instead.
        base: policies that every request is under, whatever policy it brings; their edits go first.
        device, device_map: where to put the model (default: the CPU), or a map for accelerate.
        dtype: of the model's weights (default: float32 for the box, else as stored).
        revision, saes_revision: of the model and of the SAEs on the hub.
        audit: the store's file (default: `audit.db` in `$STEERKIT_HOME`), an open store, or False for no records.
        untrusted: what happens to control tokens in user text, tool results and descriptions.
        on_audit_failure: of a lost record: `block` releases and runs nothing, `warn` warns; the next record counts it.
        on_record: told of each record once it is on disk.
        counterfactual: make each steered turn without steering as well, beside it in its batch, and record it.
        required_over_steering: demand a required call also where steering turned the model away from it.
        prefix_cache: how much memory, such as `1 GiB`, may hold what prompts begin with; False for none.
        prepack: keep linear weights a second time as a CPU reads them fastest; `auto`: where that is faster.
        graphs: decode by steps of fixed shape; `auto`: on a GPU, in CUDA graphs; `compiled`: compiled as well.

    Raises:
        ModelError, SaeError, PolicyError, AuditError: with what was got, what was expected and what to do.
    """
    loaded = load_model(model, device=device, dtype=dtype, device_map=device_map, revision=revision, prepack=prepack)
    suite = _checked(_saes(model, saes, saes_revision), loaded, named=not isinstance(saes, SaeSet))
    make = partial(Runtime, loaded, suite, () if policy is None else policy, base=base, untrusted=untrusted)
    make = partial(make, required_over_steering=required_over_steering, on_audit_failure=on_audit_failure)
    told: dict[str, Any] = {"on_record": on_record, "counterfactual": counterfactual, "prefix_cache": prefix_cache}
    return make(store=_store(audit), graphs=graphs, **told)


def load_recorded(
    turn: RecordedTurn,
    *,
    model: str | None = None,
    saes: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Runtime:
    """A runtime on what a turn was made with, by its recorded names, without policies and without a store.

    Whether it is the same to the bit is not checked here: `audit.compare` says what has changed.

    Args:
        turn: the recorded turn.
        model, saes, device, dtype: instead of the recorded ones.

    Raises:
        ModelError, SaeError: they are not there.
    """
    was, had = turn.record.model, turn.record.saes
    name = model or was.name
    loaded = load_model(name, device=device or _device(was.device), dtype=dtype or was.dtype, prepack=False)
    loaded = loaded.prepacking(turn.record.prepacked)
    if saes is None and had is None:
        return Runtime(loaded)
    is_there = had is not None and (Path(had.name).exists() or box_folder(name) is None)
    suite = _saes(name, saes or (had.name if had and is_there else None), None)
    return Runtime(loaded, _checked(suite, loaded, named=False))


def _device(recorded: str) -> str:
    """The recorded device, or the CPU where this machine has no such one."""
    kind = torch.device(recorded).type
    return recorded if kind == "cpu" or (kind == "cuda" and torch.cuda.is_available()) else "cpu"


def _saes(model: str | Path, saes: str | Path | SaeSet | None, revision: str | None) -> SaeSet | None:
    if isinstance(saes, SaeSet):
        return saes
    if saes is not None:
        return load_set(saes, revision=revision)
    box = box_folder(str(model))
    return load_set(box / "saes") if box else None


def _store(audit: str | Path | Store | Literal[False] | None) -> Store | None:
    if audit is False:
        return None
    return audit if isinstance(audit, Store) else Store(default_store() if audit is None else Path(audit))


def _checked(saes: SaeSet | None, loaded: LoadedModel, named: bool) -> SaeSet | None:
    """The set, unless it is of another model: by name where the model has one, by layers and width always."""
    if saes is None:
        return None
    if named and loaded.published_name not in (None, saes.model_name):
        raise SaeError(
            f"{saes.name}: trained on {saes.model_name}, but the model is {loaded.published_name}; expected SAEs of "
            f"this model (to use them all the same, load the set first and pass it as an object)"
        )
    sites = find_sites(loaded.model)
    for site, sae in saes.items():
        try:
            width = sites.width(site)
        except SteeringError as error:
            raise SaeError(f"{saes.name}: an SAE for {site.name}, but {error}") from None
        if width is not None and sae.d_in != width:
            row = TABLE[site.point]
            raise SaeError(
                f"{saes.checkpoints[site].path}: reads width {sae.d_in}, but layer {site.layer}'s {row.what} of "
                f"{loaded.name} {row.does} {width}; expected SAEs trained on this model"
            )
    return saes
