"""What a record must say of how a turn came about."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from typing import Any

from steerkit.audit import Context
from steerkit.engine import LoadedModel, Sampling
from steerkit.policy import Policy, fingerprint
from steerkit.runtime.request import Prepared
from steerkit.sae import SaeSet

_LIBRARIES = ("steerkit", "torch", "transformers", "tokenizers")


def opening_of(loaded: LoadedModel, saes: SaeSet | None, policies: Sequence[Policy]) -> dict[str, Any]:
    """What a run is opened with: model, SAEs, the policies of requests that bring none, their settings, libraries."""
    return {
        "model": _model(loaded),
        "saes": _saes(saes),
        "policies": [_policy(policy) for policy in policies],
        "sampling": asdict(Sampling()),
        "libraries": _libraries(),
    }


def context_of(loaded: LoadedModel, saes: SaeSet | None, one: Prepared, seconds: float) -> Context:
    """Model, SAEs, policies, settings and library versions of a request, and how long its generation took."""
    return Context(
        messages=one.request.messages,
        tools=one.tools,
        model=_model(loaded),
        saes=_saes(saes),
        policies=[_policy(policy) for policy in one.policies],
        guarded=any(policy.guard is not None for policy in one.policies),
        sampling=asdict(one.request.sampling),
        libraries=_libraries(),
        seconds=seconds,
    )


def _model(loaded: LoadedModel) -> dict[str, str]:
    return {
        "name": loaded.name,
        "fingerprint": loaded.fingerprint,
        "tokenizer": loaded.tokenizer_fingerprint,
        "template": loaded.template_fingerprint,
        "device": str(loaded.device),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
    }


def _saes(saes: SaeSet | None) -> dict[str, str] | None:
    return None if saes is None else {"name": saes.name, "fingerprint": saes.fingerprint}


def _policy(policy: Policy) -> dict[str, object]:
    return {
        "name": policy.name,
        "fingerprint": fingerprint(policy),
        "mode": policy.mode,
        "content": policy.model_dump(mode="json", exclude_none=True),
    }


@cache
def _libraries() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
