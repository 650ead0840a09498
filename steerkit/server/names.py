"""Names that requests may give: of the model, and of the policies that the operator allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steerkit.errors import PolicyError
from steerkit.policy import Policy
from steerkit.runtime import PolicyLike, read_policies
from steerkit.server.errors import ApiError
from steerkit.server.keys import Key

HEADER = "x-steerkit-policy"
NOTHING = "none"
"""Name of no policies at all, where the operator allows that."""


@dataclass(frozen=True)
class Names:
    """The model's name and the policies by theirs."""

    model: str
    policies: Mapping[str, Policy]
    """Those that a request may choose."""
    base: frozenset[str]
    """Names of policies that every request is under, whatever it chooses."""
    allows_nothing: bool = False

    @classmethod
    def of(cls, model: str, default: PolicyLike, allowed: Sequence[str], base: PolicyLike) -> Names:
        """Read policy files once. Raises PolicyError, also where two share a name."""
        chosen = {one.name: one for one in read_policies(default)}
        for one in read_policies([name for name in allowed if name != NOTHING]):
            if chosen.get(one.name, one) != one:
                raise PolicyError([f"policies: got two of the name '{one.name}'; expected a name of its own for each"])
            chosen[one.name] = one
        if NOTHING in chosen:
            raise PolicyError([f"policies: got the name '{NOTHING}', which stands for no policies; expected another"])
        return cls(model, chosen, frozenset(one.name for one in read_policies(base)), NOTHING in allowed)

    def listed(self, key: Key) -> list[str]:
        """Models that a key may ask for: the model itself, and with each policy."""
        known = [*self.policies, *([NOTHING] if self.allows_nothing else [])]
        return [self.model, *(f"{self.model}:{name}" for name in known if key.may_choose(name))]

    def chosen(self, model: str, body: Sequence[str] | None, header: str | None, key: Key) -> tuple[Policy, ...] | None:
        """The policies of a request; None where it brings none, which is the operator's default.

        Args:
            model: as the request names it, `MODEL` or `MODEL:POLICY+POLICY`.
            body: its `steerkit.policy`.
            header: its `x-steerkit-policy`, names with commas between.
            key: whose request it is.

        Raises:
            ApiError: no such model, a policy that is not allowed, or two places that do not say the same.
        """
        name, colon, suffix = model.removeprefix(self.model).partition(":")
        if not model.startswith(self.model) or name:
            raise ApiError(
                404,
                f"model: got {model!r}, expected one of {', '.join(self.listed(key))}",
                code="model_not_found",
                param="model",
            )
        said = {
            "model": suffix.split("+") if colon else None,
            "steerkit.policy": body,
            HEADER: None if header is None else [one.strip() for one in header.split(",")],
        }
        given = {where: list(names) for where, names in said.items() if names is not None}
        if not given:
            return None if key.default is None else self._policies("key", key.default, key)
        (where, names), *others = given.items()
        for other, more in others:
            if more != names:
                raise ApiError(
                    400,
                    f"{other}: got {', '.join(more)}, but {where} says {', '.join(names)}",
                    param=other,
                )
        return self._policies(where, names, key)

    def _policies(self, where: str, names: Sequence[str], key: Key) -> tuple[Policy, ...]:
        found: dict[str, Policy] = {}
        for name in names:
            if name in self.base or (name == NOTHING and self.allows_nothing and key.may_choose(name)):
                continue
            if name not in self.policies or (where != "key" and not key.may_choose(name)):
                known = [one.partition(":")[2] for one in self.listed(key)[1:]]
                said = ", ".join(known) or "no policy, as the operator allows none"
                raise ApiError(
                    404 if where == "model" else 400,
                    f"{where}: got the policy {name!r}, expected {said}",
                    code="model_not_found" if where == "model" else "policy_not_allowed",
                    param=where,
                )
            found[name] = self.policies[name]
        return tuple(found.values())
