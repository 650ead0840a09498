"""What a record must say of how a turn came about."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from importlib.metadata import version

from steerkit.audit import Context
from steerkit.engine import LoadedModel
from steerkit.policy import Policy, fingerprint
from steerkit.runtime.request import Prepared
from steerkit.sae import SaeSet

_LIBRARIES = ("steerkit", "torch", "transformers", "tokenizers")


def context_of(loaded: LoadedModel, saes: SaeSet | None, one: Prepared) -> Context:
    """Model, SAEs, policies, settings and library versions of a request."""
    return Context(
        messages=one.request.messages,
        tools=one.tools,
        model={
            "name": loaded.name,
            "fingerprint": loaded.fingerprint,
            "tokenizer": loaded.tokenizer_fingerprint,
            "device": str(loaded.device),
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
        },
        saes=None if saes is None else {"name": saes.name, "fingerprint": saes.fingerprint},
        policies=[_policy(policy) for policy in one.policies],
        guarded=any(policy.guard is not None for policy in one.policies),
        sampling=asdict(one.request.sampling),
        libraries=_libraries(),
    )


def _policy(policy: Policy) -> dict[str, object]:
    return {
        "name": policy.name,
        "fingerprint": fingerprint(policy),
        "mode": policy.mode,
        "content": policy.model_dump(mode="json", exclude_none=True),
    }


@cache
def _libraries() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}
