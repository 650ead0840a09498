"""From what a caller gives as a policy to policies that are ready to run on a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from steerkit.engine import LoadedModel
from steerkit.errors import PolicyError
from steerkit.policy import Policy, resolve
from steerkit.policy import load as load_policy
from steerkit.sae import SaeSet

PolicyLike: TypeAlias = "Policy | str | Path | Sequence[Policy | str | Path]"
"""A policy, the path of a policy file, or several of them; an empty sequence is no policy."""


def policies_for(policy: PolicyLike, loaded: LoadedModel, saes: SaeSet | None) -> tuple[Policy, ...]:
    """The policies ready to run on this model: read, checked against it, every quantity raw.

    Raises:
        PolicyError: a file is wrong, a policy is for another model, or two policies share a name.
        SaeError: a feature or statistic that the SAE set does not have.
    """
    policies = read_policies(policy)
    for item in policies:
        _check_model(item, loaded, saes)
        if saes is not None:
            for feature in item.features.values():
                saes.check(feature.feature)
    return tuple(resolve(item, saes.statistic) if saes is not None else item for item in policies)


def read_policies(policy: PolicyLike) -> list[Policy]:
    """Policies from any of the forms in which they are given, files read."""
    single = isinstance(policy, (Policy, str, Path))
    if not single and (isinstance(policy, (bytes, Mapping)) or not isinstance(policy, Iterable)):
        got = type(policy).__name__
        raise PolicyError([f"policy: got {got}, expected a policy, the path of a policy file, or a list of them"])
    given: Sequence[Policy | str | Path] = [policy] if single else list(policy)  # type: ignore[list-item, arg-type]
    for number, item in enumerate(given):
        if not isinstance(item, (Policy, str, Path)):
            raise PolicyError([f"policies[{number}]: got {type(item).__name__}, expected a policy or a file's path"])
    policies = [item if isinstance(item, Policy) else load_policy(item) for item in given]
    refuse_twice(policies)
    return policies


def refuse_twice(policies: Sequence[Policy]) -> None:
    """Raise PolicyError if two policies share a name: records and verdicts say a policy's name."""
    names = [item.name for item in policies]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PolicyError([f"policies: got the name '{twice[0]}' twice; expected a name of its own for each"])


def _check_model(policy: Policy, loaded: LoadedModel, saes: SaeSet | None) -> None:
    if policy.model is None:
        return
    known = {loaded.name, *([saes.name, saes.model_name] if saes else [])}
    if policy.model in known:
        return
    if policy.model.startswith("sha256:") and policy.model in (loaded.fingerprint, saes.fingerprint if saes else ""):
        return
    problem = f"policy '{policy.name}' model: got {policy.model!r}, but the model is {loaded.name!r}"
    raise PolicyError([f"{problem}; expected a policy for this model"])


def unsteered(policies: Sequence[Policy]) -> tuple[Policy, ...]:
    """The same policies, which judge and trace as before and change nothing."""
    return tuple(policy.model_copy(update={"steer": ()}) for policy in policies)
