"""Facts about a running `generate`: the length of its prompt, and how it may feed what comes after."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor, nn

from steerkit.errors import SteeringError

_DRAFTS: Final = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp", "speculation_type")
"""Settings under which drafts come in one pass with known tokens."""
_REFUSED: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "guidance_scale": (lambda value: value not in (None, 1), "runs the model a second time, on another prompt"),
    "token_healing": (bool, "takes tokens off the prompt"),
    "cache_implementation": (lambda value: value == "paged", "batches continuously, in threads of its own"),
}
"""Settings, which of their values steering cannot follow, and why."""


@dataclass(slots=True)
class Generation:
    """One running `generate`: its arguments, and how far it has come."""

    length: int
    """Columns of the padded prompt, those in its cache included."""
    sequences: int
    """Prompts that it was given; beams and samples repeat them."""
    drafts: bool
    """True if drafts may come in one pass with the prompt, and be taken back."""
    padded_right: bool = False
    """True if prompts end in different columns."""
    begun: bool = False
    """True once a pass of it has run."""
    cache: Any = None
    """The KV cache of that pass."""

    @classmethod
    def of(cls, model: nn.Module, args: tuple[Any, ...], given: Mapping[str, Any]) -> Generation:
        """The generation that `model.generate(*args, **given)` asks for.

        Raises:
            SteeringError: it was asked for what steering cannot follow.
        """
        for name, (refused, why) in _REFUSED.items():
            if refused(value := setting(name, model, args, given)):
                raise SteeringError(f"generate({name}={value!r}): it {why}, so that it is not steered; leave it out")
        embeds, ids = given.get("inputs_embeds"), given.get("input_ids", given.get("inputs"))
        prompt = embeds if embeds is not None else args[0] if args and args[0] is not None else ids
        mask = given.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            mask = None
        drafts = given.get("assistant_model") is not None
        drafts = drafts or any(setting(name, model, args, given) for name in _DRAFTS)
        if prompt is None:  # transformers begins with a token of its own
            return cls(1, 1, drafts)
        # Where the cache holds the beginning, the prompt may be given whole or without it; a mask covers it all.
        length = prompt.shape[1] if mask is None else max(mask.shape[1], prompt.shape[1])
        return cls(length, len(prompt), drafts, mask is not None and bool((mask[:, -1] == 0).any()))


def setting(name: str, model: nn.Module, args: tuple[Any, ...], given: Mapping[str, Any]) -> Any:
    """The value of a setting of `generate`: given by itself, in a configuration, or in the model's own."""
    if given.get(name) is not None:
        return given[name]
    for one in (_config(args, given), getattr(model, "generation_config", None)):
        if (found := getattr(one, name, None)) is not None:
            return found
    return None


def is_draft(args: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    """True if a `generate` is asked for drafts, by another one that decides which are taken."""
    return bool(getattr(_config(args, given), "is_assistant", False))


def _config(args: tuple[Any, ...], given: Mapping[str, Any]) -> Any:
    return args[1] if len(args) > 1 else given.get("generation_config")


def inside_generate() -> bool:
    """True if transformers' own `generate` is on the stack of this thread."""
    frame: FrameType | None = None if torch.compiler.is_compiling() else sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "generate" and frame.f_globals.get("__name__") == "transformers.generation.utils":
            return True
        frame = frame.f_back
    return False
