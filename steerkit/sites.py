"""Hook points of a model's layers, and the SAE features at them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

Point: TypeAlias = Literal["attn_in", "attn_out", "mlp_out", "resid_post"]
"""A hook point of a decoder layer: what the attention's `o_proj` is given, what it writes, what the MLP adds to the
residual stream, and the residual stream after the layer."""

POINTS: Final[tuple[Point, ...]] = get_args(Point)
"""All hook points, in the order in which a layer computes them."""


class Site(NamedTuple):
    """A hook point of one decoder layer, `attn_out.3` as text; sites sort in the order in which a token passes them."""

    layer: int
    """Index of the decoder layer, from 0."""
    point: Point = "attn_out"

    @classmethod
    def of(cls, value: Site | int | str) -> Site:
        """A site from its text; a layer's number alone means its `attn_out`.

        Raises:
            ValueError: the text names no site.
        """
        if isinstance(value, Site):
            return value
        if isinstance(value, int):
            return cls(value)
        point, _, layer = value.partition(".")
        if point not in POINTS or not re.fullmatch(r"0|[1-9][0-9]{0,8}", layer):
            points = ", ".join(POINTS)
            raise ValueError(f"got {value!r}, expected a hook point ({points}) and a layer, such as resid_post.3")
        return cls(int(layer), point)

    @property
    def order(self) -> int:
        """A number by which sites sort; negative for layers below 0, which stand before all others."""
        return self.layer * len(POINTS) + POINTS.index(self.point)

    @property
    def compact(self) -> int | str:
        """The site as records hold it: the layer's number for its `attn_out`, else the text; `of` reads both."""
        return self.layer if self.point == "attn_out" else str(self)

    @property
    def content(self) -> dict[str, int | str]:
        """The site as a JSON object says it: `{"layer": 3}` for its `attn_out`, else `{"site": "resid_post.3"}`."""
        compact = self.compact
        return {"layer" if isinstance(compact, int) else "site": compact}

    @property
    def name(self) -> str:
        """The site as messages name it: `layer 3` for its `attn_out`."""
        return f"layer {self.layer}" if self.point == "attn_out" else str(self)

    @property
    def stem(self) -> str:
        """The site in names of files and tensors: `layer_03` for its `attn_out`, else `resid_post_03`."""
        return f"{'layer' if self.point == 'attn_out' else self.point}_{self.layer:02d}"

    def __str__(self) -> str:
        return f"{self.point}.{self.layer}"

    def __repr__(self) -> str:
        return str(self)

    def __lt__(self, other: tuple[object, ...]) -> bool:
        return self.order < other.order if isinstance(other, Site) else NotImplemented

    def __le__(self, other: tuple[object, ...]) -> bool:
        return self.order <= other.order if isinstance(other, Site) else NotImplemented

    def __gt__(self, other: tuple[object, ...]) -> bool:
        return self.order > other.order if isinstance(other, Site) else NotImplemented

    def __ge__(self, other: tuple[object, ...]) -> bool:
        return self.order >= other.order if isinstance(other, Site) else NotImplemented


@dataclass(frozen=True, order=True, slots=True, init=False)
class Feature:
    """One latent of one site's SAE."""

    site: Site
    index: int
    """Index in the site's dictionary, from 0."""

    def __init__(self, site: Site | int, index: int) -> None:
        object.__setattr__(self, "site", Site.of(site))
        object.__setattr__(self, "index", index)

    @property
    def layer(self) -> int:
        """Index of the decoder layer, from 0."""
        return self.site.layer

    @property
    def handle(self) -> str:
        """A short name, such as `l3_72` or `resid_post3_72`."""
        point = "l" if self.site.point == "attn_out" else self.site.point
        return f"{point}{self.layer}_{self.index}"

    @property
    def address(self) -> str:
        """The feature as pages and queries take it: `3:72`, or `resid_post.3:72`."""
        return f"{self.site.compact}:{self.index}"

    def __str__(self) -> str:
        return f"{self.site.name} feature {self.index}"


def with_sites_written(value: Any) -> Any:
    """Plain data in which every site is as JSON says it: `layer` or `site` beside its siblings, a key by itself."""
    if isinstance(value, Site):
        return str(value)
    if isinstance(value, Mapping):
        found: dict[Any, Any] = {}
        for key, part in value.items():
            if key == "site" and isinstance(part, Site):
                found |= part.content
            else:
                found[key.compact if isinstance(key, Site) else key] = with_sites_written(part)
        return found
    return [with_sites_written(part) for part in value] if isinstance(value, list | tuple) else value
