"""Arms of a suite: the model alone, and under a policy, its parts, or the policy without its gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from steerkit.errors import SaeError
from steerkit.lab.prove.baselines import acting_rules, guard_only, without_gates
from steerkit.policy import Policy, fingerprint

PLAIN: Final = "plain"
PARTS: Final[Mapping[str, Callable[[Policy], Policy]]] = {
    "shadow": lambda policy: policy.model_copy(update={"mode": "shadow"}),
    "steering": lambda policy: policy.model_copy(update={"guard": None}),
    "guard": guard_only,
    "policy": lambda policy: policy,
    "ungated": without_gates,
}
"""By arm, the policy that it runs under, made of one that enforces. `shadow` reads and judges and changes nothing;
`ungated` edits wherever its rules may, whatever its gates say."""
ARMS: Final = (PLAIN, *PARTS)


def arms_of(policy: Policy | None, names: Sequence[str]) -> dict[str, tuple[Policy, ...]]:
    """The policies of each arm, in the order of `ARMS`; whatever `mode` the policy has, it enforces in all but `shadow`.

    Raises:
        SaeError: a name that is none of an arm, or an arm of a policy where there is no policy.
    """
    unknown = [name for name in names if name not in ARMS]
    if unknown or not names:
        raise SaeError(f"arms: got {', '.join(unknown) or 'none'}, expected some of {', '.join(ARMS)}")
    if policy is None:
        if others := [name for name in names if name != PLAIN]:
            raise SaeError(f"arms: got {', '.join(others)} without a policy; give --policy, or the arm {PLAIN} alone")
        return {PLAIN: ()}
    enforced = policy.model_copy(update={"mode": "enforce"})
    return {name: () if name == PLAIN else (PARTS[name](enforced),) for name in ARMS if name in names}


def parts_of(policy: Policy | None) -> tuple[str, ...]:
    """Names of the arms that differ: the plain model, the steering and the guard of a policy that has both, and it."""
    if policy is None:
        return (PLAIN,)
    parts = ("steering", "guard") if acting_rules(policy) and policy.guard is not None else ()
    return (PLAIN, *parts, "policy")


def identity_of(policy: Policy | None) -> str | None:
    """Fingerprint of what the arms are made of."""
    return None if policy is None else fingerprint(policy)
