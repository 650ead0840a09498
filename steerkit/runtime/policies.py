"""Policies as callers give them, made ready to run on a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from steerkit.engine import Engine
from steerkit.errors import PolicyError
from steerkit.kept import Kept
from steerkit.policy import NamedDirection, Policy, bind, fingerprint, read_direction, resolve
from steerkit.policy import load as load_policy

PolicyLike: TypeAlias = "Policy | str | Path | Sequence[Policy | str | Path]"
"""A policy, the path of a policy file, or several of them; an empty sequence is no policy."""
_MOST: Final = 256
"""Policies that are kept ready."""


class ReadyPolicies:
    """Policies made ready for one engine: checked against it, every quantity raw; each content once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ready: Kept[str, Policy] = Kept(_MOST)

    def of(self, policy: PolicyLike) -> tuple[Policy, ...]:
        """The policies, files read.

        Raises:
            PolicyError: a file is wrong, a policy is for another model, or two policies share a name.
            SaeError: a feature or statistic that the SAE set does not have.
        """
        return tuple(map(self._made_ready, read_policies(policy)))

    def _made_ready(self, policy: Policy) -> Policy:
        return self._ready.get(fingerprint(policy), partial(_resolved, policy, self._engine))


def policies_for(policy: PolicyLike, engine: Engine) -> tuple[Policy, ...]:
    """The policies made ready for an engine. Raises the errors of `ReadyPolicies.of`."""
    return ReadyPolicies(engine).of(policy)


def _resolved(policy: Policy, engine: Engine) -> Policy:
    _check_model(policy, engine)
    for name, direction in policy.directions.items():
        _check_origin(f"policy '{policy.name}' directions.{name}: {direction.file}", direction, engine)
    if engine.saes is None:
        return policy
    for feature in policy.features.values():
        engine.saes.check(feature.feature)
    return resolve(policy, engine.saes.statistic)


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
    policies = [bind(item) if isinstance(item, Policy) else load_policy(item) for item in given]
    refuse_twice(policies)
    return policies


def refuse_twice(policies: Sequence[Policy]) -> None:
    """Raise PolicyError if two policies share a name: records and verdicts say a policy's name."""
    names = [item.name for item in policies]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PolicyError([f"policies: got the name '{twice[0]}' twice; expected a name of its own for each"])


def _check_model(policy: Policy, engine: Engine) -> None:
    saes = engine.saes
    if policy.model in {None, engine.name, *([saes.name, saes.model_name] if saes else [])}:
        return
    assert policy.model is not None  # for the type checker
    if policy.model.startswith("sha256:"):
        found = engine.provenance
        if policy.model in (found.model.fingerprint, found.saes.fingerprint if found.saes else ""):
            return
    problem = f"policy '{policy.name}' model: got {policy.model!r}, but the model is {engine.name!r}"
    raise PolicyError([f"{problem}; expected a policy for this model"])


def _check_origin(where: str, direction: NamedDirection, engine: Engine) -> None:
    """Raise PolicyError for a direction that was made on another model.

    A fingerprint is of weights in one dtype, so that of weights in another says nothing: there the tokenizers decide.
    """
    origin, model = read_direction(direction.file, direction.fingerprint).origin, engine.provenance.model
    said, is_now = (
        (origin.model_fingerprint, model.fingerprint)
        if origin.dtype == model.dtype
        else (origin.tokenizer, model.tokenizer)
    )
    if said and is_now and said != is_now:
        raise PolicyError(
            [
                f"{where}: made on {origin.model or 'another model'} ({said[:19]}…), but the model is {model.name} "
                f"({is_now[:19]}…); make one on this model: `steerkit features direction`"
            ]
        )


def unsteered(policies: Sequence[Policy]) -> tuple[Policy, ...]:
    """Copies of the policies that judge and trace as before and change nothing."""
    return tuple(policy.model_copy(update={"steer": ()}) for policy in policies)
