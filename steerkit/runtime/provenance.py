"""Identities and settings that a record has of what shaped a turn."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from steerkit.audit import Context, ModelIdentity, PolicyIdentity, RunOpenedRecord, SaeSetIdentity, SamplingSettings
from steerkit.engine import LoadedModel, Sampling
from steerkit.policy import Policy, fingerprint
from steerkit.runtime.request import Prepared
from steerkit.sae import SaeSet, onednn_version
from steerkit.version import __version__

_LIBRARIES = ("torch", "transformers", "tokenizers")


def opening_of(loaded: LoadedModel, saes: SaeSet | None, policies: Sequence[Policy]) -> RunOpenedRecord:
    """The opening of a run: model, SAEs, the policies of requests that bring none, their settings, libraries."""
    return RunOpenedRecord(
        model=_model(loaded),
        saes=_saes(saes),
        policies=tuple(_policy(policy) for policy in policies),
        sampling=_settings(Sampling()),
        libraries=_libraries(),
        machine=_machine(loaded),
    )


def context_of(
    loaded: LoadedModel,
    saes: SaeSet | None,
    one: Prepared,
    seconds: float,
    batch: Mapping[str, int],
    decoding: str | None = None,
) -> Context:
    """Model, SAEs, policies, settings and libraries of a request, how long its generation took, and in which batch.

    `decoding` is said where its tokens were not made by hooks on the model alone: a graph may round otherwise.
    """
    return Context(
        messages=one.request.messages,
        tools=one.tools,
        model=_model(loaded),
        saes=_saes(saes),
        policies=[_policy(policy) for policy in one.policies],
        guarded=any(policy.guard is not None for policy in one.policies),
        sampling=_settings(one.request.sampling),
        libraries=_libraries(),
        seconds=seconds,
        machine=_machine(loaded) | ({} if decoding is None else {"decoding": decoding}),
        batch=batch,
        conversation=one.request.conversation,
        metadata=one.metadata,
    )


def _model(loaded: LoadedModel) -> ModelIdentity:
    return ModelIdentity(
        loaded.name,
        loaded.fingerprint,
        loaded.tokenizer_fingerprint,
        loaded.template_fingerprint,
        str(loaded.device),
        str(loaded.model.dtype).removeprefix("torch."),
    )


def _settings(sampling: Sampling) -> SamplingSettings:
    return SamplingSettings(**asdict(sampling))


def _machine(loaded: LoadedModel) -> dict[str, Any]:
    """What the last bits of float arithmetic depend on, besides the libraries."""
    accelerator = torch.cuda.get_device_name(loaded.device) if loaded.device.type == "cuda" else None
    return {
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "accelerator": accelerator,
        "prepacked": loaded.runs_prepacked,
    }


def _saes(saes: SaeSet | None) -> SaeSetIdentity | None:
    return None if saes is None else SaeSetIdentity(saes.name, saes.fingerprint)


def _policy(policy: Policy) -> PolicyIdentity:
    content = policy.model_dump(mode="json", exclude_none=True)
    return PolicyIdentity(policy.name, fingerprint(policy), policy.mode, content)


@cache
def _libraries() -> dict[str, str]:
    own = {"python": platform.python_version(), "steerkit": __version__}
    found = {**own, **{name: version(name) for name in _LIBRARIES}}
    onednn = onednn_version()
    return found if onednn is None else {**found, "onednn": onednn}
