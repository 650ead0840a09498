"""Policies and traces as plain data, for calls between the engine's process and its workers'."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor

from steerkit.chat import Tokenizer, read_constraint
from steerkit.engine.api import Row, Sampling
from steerkit.fingerprints import sha256_of
from steerkit.policy import fingerprint, recorded_policy
from steerkit.sites import Feature, Site
from steerkit.steer import Wanted
from steerkit.types import Edit, TopK, Trace

KEY: Final = "steerkit"
"""Name of everything of ours in vLLM: in its configuration, its forward context and a request's extra arguments."""
CHOICE: Final = "steerkit_choice"
"""Name of a request's extra argument that says how its tokens are chosen."""
OWNER: Final = "STEERKIT_VLLM_OWNER"
"""Environment variable with the id of the process that has the requests, for vLLM's processes."""
Asks: TypeAlias = Literal["asks"]
"""Of a token that is not chosen yet: what the model would say without steering must be known first."""


def row_name(wanted: Wanted) -> str:
    """Name of a row by its content: the policies, and what is to be read of a request under them."""
    watch = {key: list(names) for key, names in wanted.watch.items()}
    content = [*map(fingerprint, wanted.policies), repr(sorted(watch.items())), str(wanted.top_k)]
    return sha256_of("\n".join(content))


def packed_wanted(wanted: Wanted) -> dict[str, Any]:
    """A row's content."""
    policies = [policy.model_dump(mode="json", exclude_none=True) for policy in wanted.policies]
    watch = {name: list(names) for name, names in wanted.watch.items()}
    return {"policies": policies, "watch": watch, "top_k": wanted.top_k}


def unpacked_wanted(data: Mapping[str, Any]) -> Wanted:
    """The row that `packed_wanted` was given. Raises PolicyError: a policy cannot be read."""
    policies = tuple(recorded_policy(content, "a request's policy") for content in data["policies"])
    watch = {name: tuple(names) for name, names in data["watch"].items()}
    return Wanted(policies, watch, data["top_k"])


def packed_decoder(rows: Mapping[Feature, Tensor]) -> list[tuple[str, int, bytes]]:
    """Decoder rows of features, in float32."""
    return [
        (str(feature.site), feature.index, row.detach().float().cpu().contiguous().numpy().tobytes())
        for feature, row in sorted(rows.items())
    ]


def unpacked_decoder(data: Sequence[tuple[str, int, bytes]]) -> dict[Feature, Tensor]:
    """The rows that `packed_decoder` was given."""
    return {
        Feature(Site.of(site), index): torch.frombuffer(bytearray(row), dtype=torch.float32)
        for site, index, row in data
    }


def packed_choice(row: Row, most: int) -> dict[str, Any] | None:
    """Way in which a row's tokens are chosen, at most so many; None where each is the most likely one."""
    if row.sampling.temperature == 0 and row.constraint is None:
        return None
    texts = [None if one is None else one.written for one in (row.constraint, row.turned_away)]
    return {"sampling": {**asdict(row.sampling), "max_new_tokens": most}, "constraints": texts}


def resumed_choice(request: str, prompt_length: int, unsteered: int) -> dict[str, Any]:
    """Way in which the tokens of a row are chosen that goes on for another request: as that one was about to, which
    asked what the model would say without steering."""
    return {"resumes": request, "prompt_length": prompt_length, "unsteered": unsteered}


def unpacked_choice(data: Mapping[str, Any], tokenizer: Tokenizer) -> Row:
    """The row that `packed_choice` was given, as far as the choice goes. Raises SteerkitError: it cannot be read."""
    constraints = [None if one is None else read_constraint(tokenizer, one) for one in data["constraints"]]
    return Row((), Wanted(), Sampling(**data["sampling"]), *constraints)


def packed_trace(trace: Trace) -> dict[str, Any]:
    """What a worker reads of a trace: watched values, strongest features and edits."""
    return {
        "watched": {key: packed_values(values) for key, values in trace.watched.items()},
        "features": {key: (str(one.site), one.index) for key, one in trace.features.items()},
        "top": [(str(one.site), one.start, one.count, one.k, one.index, one.value) for one in trace.top],
        "edits": [(one.rule, one.policy, str(one.site), list(one.positions), one.norm) for one in trace.edits],
    }


def unpacked_trace(data: Mapping[str, Any]) -> Trace:
    """The trace that `packed_trace` was given."""
    return Trace(
        watched={key: unpacked_values(values) for key, values in data["watched"].items()},
        features={key: Feature(Site.of(site), index) for key, (site, index) in data["features"].items()},
        top=tuple(TopK(Site.of(site), *rest) for site, *rest in data["top"]),
        edits=tuple(Edit(rule, by, Site.of(at), tuple(tokens), norm) for rule, by, at, tokens, norm in data["edits"]),
    )


def packed_values(values: tuple[float, ...]) -> bytes:
    """Numbers as 8 bytes each."""
    return array("d", values).tobytes()


def unpacked_values(data: bytes) -> tuple[float, ...]:
    """The numbers that `packed_values` was given."""
    return tuple(array("d", data))
