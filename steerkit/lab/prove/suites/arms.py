"""Arms of a suite: the model alone, and under a policy, its parts, or the policy without its gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from steerkit.agent import Runtime
from steerkit.errors import SaeError
from steerkit.lab.prove.baselines import acting_rules, guard_only, without_gates
from steerkit.lab.prove.resume import VariantFiles, resumed
from steerkit.lab.workers.local import Mapper
from steerkit.policy import Policy, fingerprint

P = TypeVar("P")

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
    """The policies of each arm, in the order of `ARMS`; in all but `shadow` the policy enforces, whatever its `mode`.

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


def run_arms(
    under: Mapping[str, Sequence[Policy]],
    work_of: Callable[[Sequence[Policy]], Callable[[Runtime, Sequence[P]], Sequence[Any]]],
    pieces: Sequence[Sequence[P]],
    files: VariantFiles,
    mapper: Mapper,
    report: Callable[[int, int], None] | None,
) -> dict[str, list[Any]]:
    """The rows of all pieces under each arm, those that are kept among them.

    Args:
        under: the arms.
        work_of: makes what is done under policies.
        pieces: what is done together.
        files: what keeps the rows.
        mapper: does the pieces.
        report: callback for progress: items that are done, and how many there are.
    """
    found: dict[str, list[Any]] = {}
    total = sum(map(len, pieces))

    def done(count: int) -> None:
        if report is not None:
            report(len(found) * total + count, len(under) * total)

    for arm, policies in under.items():
        found[arm] = resumed(files, arm, mapper, work_of(policies), pieces, done)
    return found


def identity_of(policy: Policy | None) -> str | None:
    """Fingerprint of what the arms are made of."""
    return None if policy is None else fingerprint(policy)
