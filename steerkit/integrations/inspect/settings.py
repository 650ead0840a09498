"""Inspect's settings of a generation in steerkit's words."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, Final

from steerkit.engine import Sampling

_NAMES: Final = {name: name for name in ("temperature", "top_p", "top_k", "seed")} | {"max_tokens": "max_new_tokens"}
_CHOICES: Final = {"auto": None, "any": "required", "none": "none"}
_UNKNOWN: Final = (
    *("best_of", "frequency_penalty", "presence_penalty", "logit_bias", "num_choices", "logprobs", "top_logprobs"),
    *("prompt_logprobs", "extra_body", "modalities", "verbosity", "effort", "reasoning_effort"),
    *("reasoning_tokens", "reasoning_mode", "reasoning_summary"),
)
"""Of the others Inspect itself takes care, or they say how to ask a server."""


def sampling(config: Any) -> Sampling:
    """The sampling of a turn; what it does not know is warned of once, as Inspect's own providers do."""
    for name in _UNKNOWN:
        if getattr(config, name, None) is not None:
            _warn(name)
    given = {ours: getattr(config, name) for name, ours in _NAMES.items()}
    return Sampling(**{name: value for name, value in given.items() if value is not None})


def form(tool_choice: Any, config: Any) -> dict[str, Any]:
    """The fields of a request that say what its reply must be like; `auto` is what a request without a choice gets."""
    found: dict[str, Any] = {"stop": config.stop_seqs or (), "parallel_tool_calls": config.parallel_tool_calls}
    found["tool_choice"] = _CHOICES[tool_choice] if isinstance(tool_choice, str) else tool_choice.name
    if config.response_schema is not None:
        schema = config.response_schema.json_schema.model_dump(exclude_none=True)
        found["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    return found


@cache
def _warn(name: str) -> None:
    logging.getLogger(__name__).warning("steerkit does not support %r: it is left out", name)
