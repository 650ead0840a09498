"""Models and their tokenizers by name: the model in the box, a folder, or a hub repository."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from steerkit.boxes import BOXES, box_folder
from steerkit.engine.hf.prepack import Prepack, Prepacked, obstacle, prepacked
from steerkit.engine.hf.sources import check_loaded, loading
from steerkit.engine.lease import Lease
from steerkit.errors import ModelError
from steerkit.fingerprints import sha256_of
from steerkit.sites import Site
from steerkit.steer import device_of, devices_of, find_sites

_CPU: Final = torch.device("cpu")
_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Serving(Protocol):
    """An engine on the same weights, which generates and reads faster wherever nobody edits activations by hand."""

    def replies(self, prompts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
        """The greedy replies to prompts, `most` tokens at most, the stop token included."""

    def activations(
        self, texts: Sequence[Sequence[int]], steps: Sequence[Sequence[int]], sites: Sequence[Site]
    ) -> torch.Tensor | None:
        """Activations `(sites, steps of all texts, width)` in float32; None where it does not read one of the sites."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to generate."""

    name: str
    """Name as the user wrote it."""
    folder: Path | None
    """Folder that it was loaded from, if from disk."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    lease: Lease = field(default_factory=Lease, repr=False, compare=False)
    """Taken while a generation runs."""
    prepacked: Prepacked | None = field(default=None, repr=False, compare=False)
    """Copies of the linear weights that generations run through, and `bytes` of memory that they take; None where
    generations run through the model's own."""
    serving: Serving | None = field(default=None, repr=False, compare=False)
    """The engine that this model is loaded beside; None where there is no other."""

    @property
    def published_name(self) -> str | None:
        """Published name of the model, as its SAEs have it; None for a folder, which could hold any."""
        if self.name in BOXES:
            return f"steerkit/{self.name}"
        return self.name if self.folder is None else None

    @property
    def device(self) -> torch.device:
        """Device of the prompt's tokens."""
        return device_of(self.model.get_input_embeddings()) or _CPU

    @cached_property
    def site_devices(self) -> dict[Site, torch.device]:
        """Device of each hook point, found once: a model that is moved afterwards is to be loaded anew."""
        return devices_of(find_sites(self.model))

    @property
    def runs_prepacked(self) -> bool:
        """True if generations run through copies of the linear weights."""
        return self.prepacked is not None and not self.prepacked.obstacle

    def prepacking(self, wanted: bool) -> LoadedModel:
        """This very model, with copies of its linear weights or without; without as well where there can be none."""
        if wanted == self.runs_prepacked:
            return self
        return replace(self, prepacked=prepacked(self.model, wanted and not obstacle(self.model)))

    @contextmanager
    def alone(self, stopped: Callable[[], bool] | None = None) -> Iterator[None]:
        """Hold the model for a generation: hooks would govern whoever else ran it.

        Raises:
            SteeringError: this thread holds it.
            AbandonedError: `stopped` said so while another thread held it.
            ModelError: this process was forked while another thread held it.
        """
        with self.lease.held(stopped), nullcontext() if self.prepacked is None else self.prepacked.in_place():
            yield

    @cached_property
    def fingerprint(self) -> str:
        """`sha256:…` over every weight, its name, dtype and shape."""
        return sha256_of(self._weights())

    def _weights(self) -> Iterator[str | memoryview]:
        for name, kept in sorted(self.model.state_dict().items()):
            tensor = _brought(self.model, name) if kept.device.type == "meta" else kept
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n"
            yield tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data

    @cached_property
    def template_fingerprint(self) -> str:
        """`sha256:…` over the chat template alone."""
        return sha256_of(json.dumps(self.tokenizer.chat_template, sort_keys=True))

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """`sha256:…` over the vocabulary and the chat template."""
        content = {"vocabulary": self.tokenizer.get_vocab(), "template": self.tokenizer.chat_template}
        return sha256_of(json.dumps(content, sort_keys=True))


def load_model(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    revision: str | None = None,
    prepack: Prepack = "auto",
) -> LoadedModel:
    """Load a function-calling model.

    Args:
        name: `tiny`, a folder, or a hub repository such as `google/functiongemma-270m-it`.
        device: where to put it (default: the CPU); not together with `device_map`.
        dtype: of the weights, such as `float32` or `bfloat16` (default: float32 for the box, else as stored).
        device_map: handed to accelerate, for models spread over devices.
        revision: branch, tag or commit on the hub.
        prepack: keep linear weights a second time as a CPU reads them fastest, and generate through those; `auto`:
            where that is measured to be faster and takes 32 MiB to 2 GiB. What needs gradients sees the model's own.

    Raises:
        ModelError: nothing is there, it cannot be fetched, or it is no causal language model with a chat template.
    """
    if device is not None and device_map is not None:
        raise ModelError("got both device and device_map; give one of them")
    where = None if device is None else _device(device)
    box = box_folder(str(name))
    folder = box or (Path(name) if Path(name).is_dir() else None)
    if folder is None and (isinstance(name, Path) or str(name).startswith((".", "/", "~"))):
        raise ModelError(f"{name}: no such folder; expected a folder with config.json, a hub repository id, or 'tiny'")
    source = str(folder or name)
    wanted = _dtype(dtype) if dtype is not None else (torch.float32 if box else "auto")
    with loading(str(name), folder, revision) as options, _progress(shown=box is None and sys.stderr.isatty()):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        placed: dict[str, Any] = {**options, "dtype": wanted, "device_map": device_map, "output_loading_info": True}
        made: Any = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, **placed)
        model, found = made
        check_loaded(str(name), found)
        if where is not None:
            model.to(where)
    if not tokenizer.chat_template:
        raise ModelError(f"{name}: its tokenizer has no chat template; expected a function-calling chat model")
    model.train(False)
    copies = prepacked(model.requires_grad_(False), prepack)
    return LoadedModel(str(name), folder, model, tokenizer, prepacked=copies)


@contextmanager
def _progress(shown: bool) -> Iterator[None]:
    """Transformers' progress bars: of use on a terminal, noise in a pipe and for a model that loads at once."""
    before = logging.is_progress_bar_enabled()
    if not shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


def _device(device: str | torch.device) -> torch.device:
    """A device that can be computed on here."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ModelError(f"device: got {device!r}, expected cpu, or cuda, cuda:1, mps and the like") from None
    try:
        if found.type != "meta":
            torch.zeros(1, device=found)
            return found
        why = "it holds no numbers"
    except (AssertionError, RuntimeError, ImportError, NotImplementedError) as error:  # whatever its backend raises
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise ModelError(f"device: got '{found}', which cannot be used here ({why.rstrip('.')}); expected cpu") from None


def _dtype(dtype: str | torch.dtype) -> torch.dtype | str:
    if dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in _DTYPES:
        close = get_close_matches(str(dtype), ("float32", "bfloat16", "float16"), n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise ModelError(f"dtype: got {dtype!r}, expected float32, bfloat16, float16 or auto{meant}")
    return found


def _brought(model: nn.Module, name: str) -> torch.Tensor:
    """A weight that accelerate keeps elsewhere until its module runs."""
    module, _, leaf = name.rpartition(".")
    hook = getattr(model.get_submodule(module), "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        kept = getattr(one, "weights_map", None)
        if kept is not None and leaf in kept:
            found: torch.Tensor = kept[leaf]
            return found
    raise ModelError(f"{name}: this weight is on no device and nothing says where it is kept; load the model anew")
