"""Runtimes by the names of their model and SAEs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from steerkit.agent.api import Runtime
from steerkit.audit import OnFailure, OnRecord, RecordedTurn, Store, default_store
from steerkit.engine import (
    DEFAULT,
    Engine,
    HfEngine,
    LoadedModel,
    Prepack,
    Prepare,
    Vllm,
    VllmEngine,
    box_folder,
    load_model,
    vllm_version,
)
from steerkit.errors import ModelError, SaeError, SteeringError
from steerkit.runtime import PolicyLike, raises_setting_errors
from steerkit.sae import SaeSet, load_set
from steerkit.steer import TABLE, find_sites


class _Ways(NamedTuple):
    """Ways of running transformers, as they are where nobody says."""

    device: str | torch.device | None = None
    device_map: str | dict[str, Any] | None = None
    prefix_cache: str | int | bool = DEFAULT
    prepack: Prepack = "auto"
    graphs: Prepare = "auto"


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
    engine: Literal["transformers", "vllm"] | Vllm = "transformers",
) -> Runtime:
    """A runtime on a model.

    Args:
        model: `tiny` (the model in the box), a folder, or a hub repository, there at `revision`.
        saes: a folder or hub repository (at `saes_revision`) of SAEs, or a set; the box brings its own.
        policy: a policy, the path of a policy file, or several; a request may bring its own instead.
        base: policies that every request is under, whatever policy it brings; their edits go first.
        device, device_map: where to put the model (default: the CPU), or a map for accelerate.
        dtype: of the model's weights (default: float32 for the box, else as stored).
        audit: the store's file (default: `audit.db` in `$STEERKIT_HOME`), an open store, or False for no records.
        untrusted: what happens to control tokens in user text, tool results and descriptions.
        on_audit_failure: of a lost record: `block` releases and runs nothing, `warn` warns; the next record counts it.
        on_record: told of each record once it is on disk.
        counterfactual: make each steered turn without steering as well, beside it in its batch, and record it.
        required_over_steering: demand a required call also where steering turned the model away from it.
        prefix_cache: how much memory, such as `1 GiB`, may hold what prompts begin with; False for none.
        prepack: keep linear weights a second time as a CPU reads them fastest; `auto`: where that is faster.
        graphs: decode by steps of fixed shape; `auto`: on a GPU, in CUDA graphs; `compiled`: compiled as well.
        engine: what generates; `vllm`, also with settings, takes none of the three above and no device.

    Raises:
        ModelError, SaeError, PolicyError, AuditError: with what was got, what was expected and what to do.
    """
    ways = _Ways(device, device_map, prefix_cache, prepack, graphs)
    runs = _engine(engine, (model, dtype, revision), (saes, saes_revision), ways)
    told: dict[str, Any] = {"counterfactual": counterfactual, "required_over_steering": required_over_steering}
    told |= {"on_audit_failure": on_audit_failure, "on_record": on_record, "untrusted": untrusted, "base": base}
    return Runtime(runs, policy=() if policy is None else policy, store=_store(audit), **told)


def _engine(
    engine: str | Vllm,
    weights: tuple[str | Path, str | torch.dtype | None, str | None],
    suite: tuple[str | Path | SaeSet | None, str | None],
    ways: _Ways,
) -> Engine:
    """The engine of a name, on a model (name, dtype, revision) and SAEs (what was given, revision).

    Raises:
        ModelError, SaeError: as `load` says them.
    """
    (name, dtype, revision), (given, saes_revision) = weights, suite
    if engine == "transformers":
        at: dict[str, Any] = {"device": ways.device, "device_map": ways.device_map, "prepack": ways.prepack}
        loaded = load_model(name, dtype=dtype, revision=revision, **at)
    elif engine == "vllm" or isinstance(engine, Vllm):
        for setting, value in ways._asdict().items():
            if value != _Ways._field_defaults[setting]:
                raise ModelError(f"{setting}: got {value!r}, which is of engine 'transformers' alone; leave it out")
        vllm_version()
        loaded = load_model(name, dtype=dtype, revision=revision, prepack=False)
    else:
        raise ModelError(f"engine: got {engine!r}, expected 'transformers', 'vllm' or a Vllm")
    saes = _checked(_saes(name, given, saes_revision), loaded, named=not isinstance(given, SaeSet))
    if engine == "transformers":
        return HfEngine(loaded, saes, prefix_cache=ways.prefix_cache, graphs=ways.graphs)
    return VllmEngine(loaded, saes, engine if isinstance(engine, Vllm) else Vllm(), revision)


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
