"""Edits, and what they name: features, directions, and probes over them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from steerkit.policy.frozen import FrozenModel, frozen
from steerkit.policy.quantities import Finite, Quantity, split_quantity
from steerkit.sites import POINTS, Feature, Site

_SITE = rf"^({'|'.join(POINTS)})\.(0|[1-9][0-9]{{0,8}})$"

Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=80)]
PolicyName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$", max_length=80)]
"""A name without dots: in a trace the first dot parts the policy from its feature."""


class Formula(NamedTuple):
    """An edit's four numbers: `f' = clip(scale * f + shift, floor, ceiling)`."""

    scale: float
    shift: float
    floor: float
    ceiling: float


class NamedFeature(FrozenModel):
    """A feature of an SAE, by layer and index."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["layer"]}, {"required": ["site"]}]})

    layer: Annotated[int, Field(strict=True, ge=0, lt=2**31)] | None = None
    """Decoder layer, from 0: short for its `attn_out`."""
    site: Annotated[str, Field(pattern=_SITE)] | None = None
    """Hook point and layer, such as `resid_post.3`; instead of `layer`."""
    index: Annotated[int, Field(strict=True, ge=0, lt=2**31)]
    """Index in the site's dictionary, from 0."""
    label: str = ""
    """Meaning that people give it."""

    @property
    def feature(self) -> Feature:
        """The feature without its label."""
        return Feature(Site.of(self.site or self.layer or 0), self.index)

    @model_validator(mode="after")
    def _has_one_site(self) -> NamedFeature:
        if (self.layer is None) == (self.site is None):
            raise ValueError(f"got {'neither' if self.layer is None else 'both'}, expected a layer or a site")
        return self

    @model_serializer(mode="wrap")
    def _without_the_other(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The form of policies from before there were sites, which keeps their fingerprints."""
        said: dict[str, Any] = inner(self)
        return {key: value for key, value in said.items() if value is not None or key not in ("layer", "site")}


class NamedDirection(FrozenModel):
    """A direction in the model's activations: a vector at each of some hook points, from a file."""

    file: Annotated[str, Field(min_length=1, max_length=4096)]
    """Path of its file (safetensors), from the policy's own folder on."""
    fingerprint: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """`sha256:…` of the file (default: that of the file which is there); a file with another is refused."""
    sites: Annotated[tuple[Annotated[str, Field(pattern=_SITE)], ...], Field(min_length=1)] | None = None
    """Hook points that are used, such as `attn_out.6` (default: all of the file)."""
    random: Annotated[int, Field(strict=True, ge=0, lt=2**31)] | None = None
    """Seed of random vectors that take the place of the file's and are as long: a control."""
    label: str = ""
    """Meaning that people give it."""

    @property
    def is_bound(self) -> bool:
        """True if it says which content of the file is meant, and at which hook points."""
        return self.fingerprint is not None and self.sites is not None

    @model_validator(mode="after")
    def _has_sites_once(self) -> NamedDirection:
        twice = {site for site in self.sites or () if (self.sites or ()).count(site) > 1}
        if twice:
            raise ValueError(f"got {min(twice)} twice in sites, expected each hook point once")
        return self


class Probe(FrozenModel):
    """A weighted sum: `bias + sum of weight * value`, each feature and direction read at its own hook points."""

    bias: Finite = 0.0
    weights: Annotated[dict[Name, Finite], Field(min_length=1), AfterValidator(frozen)]
    """Weight by name of a feature (its raw activation) or of a direction (the sum of `activation @ vector`)."""


class Edit(FrozenModel):
    """Change of a feature: `clamp`, `ablate`, or any of `scale`, `shift`, `cap` and `floor`. Of a direction: `add`."""

    clamp: Quantity | None = None
    """Set to this value."""
    ablate: Literal[True] | None = None
    """Set to 0."""
    scale: Finite | None = None
    """Multiply by this."""
    shift: Quantity | None = None
    """Add this, after scaling."""
    cap: Quantity | None = None
    """At most this."""
    floor: Quantity | None = None
    """At least this."""
    add: Finite | None = None
    """Times that a direction is added to the activations; of directions only, and alone."""

    @model_validator(mode="after")
    def _one_kind(self) -> Edit:
        given = [key for key in type(self).model_fields if getattr(self, key) is not None]
        if not given:
            raise ValueError("expected clamp, ablate, scale, shift, cap or floor; of a direction add")
        if len(given) > 1 and self.add is not None:
            raise ValueError(f"expected add alone, not {' and '.join(given)}")
        if len(given) > 1 and {"clamp", "ablate"} & set(given):
            raise ValueError(f"expected clamp or ablate alone, not {' and '.join(given)}")
        if self.floor is not None and self.cap is not None:
            (low, low_unit), (high, high_unit) = split_quantity(self.floor), split_quantity(self.cap)
            if low_unit == high_unit and low > high:
                raise ValueError(f"expected floor ({self.floor}) to be at most cap ({self.cap})")
        return self

    def formula(self) -> Formula:
        """The edit's four numbers; every quantity must be raw (see `resolve`)."""
        if self.clamp is not None:
            return Formula(0.0, float(self.clamp), -math.inf, math.inf)
        if self.ablate:
            return Formula(0.0, 0.0, -math.inf, math.inf)
        if self.add is not None:  # a direction is a feature that is never active
            return Formula(1.0, self.add, -math.inf, math.inf)
        return Formula(
            1.0 if self.scale is None else self.scale,
            0.0 if self.shift is None else float(self.shift),
            -math.inf if self.floor is None else float(self.floor),
            math.inf if self.cap is None else float(self.cap),
        )

    @model_serializer(mode="wrap")
    def _without_add(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The form of policies from before there were directions, which keeps their fingerprints."""
        said: dict[str, Any] = inner(self)
        return said if said.get("add") is not None else {key: said[key] for key in said if key != "add"}
