"""The folder or hub repository that a model is loaded from: looked at before, and its failures said in one line."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedConfig
from transformers.utils import logging as hints

from steerkit.errors import ModelError, SteerkitError
from steerkit.files import read_json, safetensors_header, shown
from steerkit.hub import is_repository_id, quiet_hub, why_refused, why_unreachable

_JSON: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "model.safetensors.index.json",
)
"""Files of a model that hold a JSON object."""
_SIZES: Final = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
"""Sizes that are at least 1, where a config has them."""
_PRODUCTS: Final = (("vocab_size", "hidden_size"), ("hidden_size", "intermediate_size"), ("hidden_size", "head_dim"))
"""Matrices of which there is at least one."""
_MOST_LAYERS: Final = 10_000
"""Most layers of a repository whose weights nobody has seen yet."""


@contextmanager
def loading(name: str, folder: Path | None, revision: str | None) -> Iterator[dict[str, Any]]:
    """Everything between a name and a loaded model: what is wrong with it is one line, and nothing else is printed.

    Yields the options that every `from_pretrained` of it takes: where the hub does not answer only its cache is read.

    Raises:
        ModelError: nothing is there, the hub cannot be reached, or any file is not what it must be.
    """
    away, said = None, ""
    try:
        with _quiet() as kept:
            if folder is None and not is_repository_id(name):
                raise ModelError(
                    f"{shown(name)}: no such folder and no name of a hub repository; expected one, or 'tiny'"
                )
            away = why_unreachable(name) if folder is None else None
            options = {"revision": revision, "local_files_only": away is not None}
            _check_config(name, folder, options)
            try:
                yield options
            finally:
                said = kept.text
    except SteerkitError:
        raise
    except Exception as error:  # its libraries raise whatever a hostile file makes of them
        raise ModelError(_failure(name, error, away, said)) from None


def check_loaded(name: str, found: Mapping[str, Any]) -> None:
    """Refuse a model that is not the one in its files.

    Args:
        name: as the user wrote it.
        found: what `from_pretrained` says of the loading (`output_loading_info=True`).

    Raises:
        ModelError: weights that the config asks for are missing, or layers are left over.
    """
    if missing := sorted(found["missing_keys"]):
        raise ModelError(f"{name}: the weights lack {_some(missing)}, which config.json asks for; fetch them again")
    if left := sorted(key for key in found["unexpected_keys"] if re.search(r"\blayers\.\d+\.", key)):
        raise ModelError(f"{name}: the weights hold {_some(left)}, but config.json asks for no such layer")


def _some(keys: list[str]) -> str:
    return f"{shown(keys[0])[1:-1]}{f' and {len(keys) - 1} more' * (len(keys) > 1)}"


class _Kept(logging.Handler):
    """Keeps what a library would print."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.text += f"{record.getMessage()}\n"


@contextmanager
def _quiet() -> Iterator[_Kept]:
    """No library's warning reaches a user: what they warn of is an error, or of no matter."""
    kept, before = _Kept(), hints.get_verbosity()
    with ExitStack() as stack:
        stack.enter_context(quiet_hub())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(hints.set_verbosity, before)
        hints.set_verbosity(logging.WARNING)
        stack.callback(hints.enable_default_handler)
        hints.disable_default_handler()
        stack.callback(hints.remove_handler, kept)
        hints.add_handler(kept)
        yield kept


def _check_config(name: str, folder: Path | None, options: Mapping[str, Any]) -> None:
    """Look at a model's files before anything is built of them. Raises ModelError."""
    most, layers = 1 << 60, _MOST_LAYERS
    if folder is not None:
        for path in map(folder.joinpath, _JSON):
            if path.exists() and not isinstance(found := read_json(path, ModelError, "a JSON object"), dict):
                raise ModelError(f"{path}: got a {type(found).__name__}, expected a JSON object")
        most, layers = _most_numbers(folder)
    config, _ = PreTrainedConfig.get_config_dict(str(folder or name), **options)
    if not isinstance(config, dict):
        raise ModelError(f"{name}: config.json: got a {type(config).__name__}, expected a JSON object")
    where = f"{folder / 'config.json' if folder else f'{name}: config.json'}"
    inner = config.get("text_config")
    for part in (config, inner) if isinstance(inner, dict) else (config,):
        _check_sizes(where, part, most, layers)
        for key in ("attn_implementation", "experts_implementation"):
            if "/" in str(kernel := part.get(key) or part.get(f"_{key}")):
                raise ModelError(f"{where}: {key}: got {shown(kernel)}, code from the hub, which steerkit does not run")


def _most_numbers(folder: Path) -> tuple[int, int]:
    """Most numbers and tensors that a folder's weights can hold: two numbers in a byte."""
    weights = [path for pattern in ("*.safetensors", "*.bin", "*.gguf") for path in folder.glob(pattern)]
    if not weights:
        raise ModelError(f"{folder}: no weights in the folder; expected model.safetensors beside config.json")
    headers = [safetensors_header(path, ModelError) for path in weights if path.suffix == ".safetensors"]
    tensors = sum(map(len, headers))
    return 2 * sum(path.stat().st_size for path in weights), tensors or _MOST_LAYERS


def _check_sizes(where: str, config: Mapping[str, Any], most: int, layers: int) -> None:
    sizes = {key: config[key] for key in _SIZES if config.get(key) is not None}
    for key, value in sizes.items():
        if type(value) is not int or value < 1:
            raise ModelError(f"{where}: {key}: got {shown(value)}, expected a positive integer")
    if (count := sizes.get("num_hidden_layers", 0)) > layers:
        raise ModelError(f"{where}: num_hidden_layers: got {count:,}, but the weights hold {layers:,} tensors")
    counts = {key: value for key, value in config.items() if key.startswith("num_") and type(value) is int}
    products: dict[tuple[str, ...], int] = {(key,): value for key, value in counts.items()}
    products |= {keys: sizes[keys[0]] * sizes[keys[1]] for keys in _PRODUCTS if set(keys) <= sizes.keys()}
    for keys, value in products.items():
        if value > most:
            said = " and ".join(f"{key} {shown(config[key])}" for key in keys)
            raise ModelError(f"{where}: {said} ask for more numbers than the weights can hold ({most:,})")


def _failure(name: str, error: Exception, away: str | None, printed: str) -> str:
    """The problem in one line that names the model."""
    if isinstance(error, MemoryError):
        return f"{name}: the memory does not suffice for the model"
    text = " ".join(str(error).split())
    if "custom code" in text or "trust_remote_code" in text:
        return f"{name}: it brings code of its own, which steerkit never runs; expected a model that transformers has"
    if mismatch := re.search(r"^\s*(\S+)\s*\|[^|]*MISMATCH", printed, re.MULTILINE):
        return f"{name}: config.json asks for another shape of {shown(mismatch[1])[1:-1]} than its weights have"
    if (refused := why_refused(error)) and away is None:
        return f"{name}: {refused}; expected a repository id, a folder, or 'tiny'"
    if away is not None:
        return f"{name}: {away}, and the cache has no such model; expected a hub that answers, or a folder"
    kind = "" if isinstance(error, (OSError, ValueError, RuntimeError)) else f"{type(error).__name__}: "
    text = re.sub(r"^(Class v|V)alidation error for .+?: (?=\w+Error: )", "", text)
    return f"{name}: the model cannot be loaded: {kind}{shown(ValueError(text), 240) if text else ''}"
