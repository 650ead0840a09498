"""The base as an ordinary model folder in bfloat16, with FunctionGemma's control tokens, chat template and stops."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerkit.engine import box_folder
from steerkit.errors import ModelError

CONTROL: Final = {
    46: "<start_function_declaration>",
    47: "<end_function_declaration>",
    48: "<start_function_call>",
    49: "<end_function_call>",
    50: "<start_function_response>",
    51: "<end_function_response>",
    52: "<escape>",
}
"""FunctionGemma's tokens at the ids where it has them; the base has `<unused40>` to `<unused46>` there."""
STOPS: Final = [1, 106, 50]
"""`<eos>`, `<end_of_turn>`, `<start_function_response>`."""
FILES: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
"""A model folder's files beside its weights."""


def convert(gguf: Path, out: Path) -> None:
    """Write the base's folder from its GGUF; the whole of it or none.

    Raises:
        ModelError: the `gguf` package is not there, or the tokenizer is not Gemma 3's.
    """
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    folder, name = gguf.parent, gguf.name
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=torch.float32, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, trust_remote_code=False)
    except ImportError as error:
        raise ModelError(f"{gguf}: {error}; install the extra: pip install 'steerkit-agents[real]'") from None
    unquantized(model)
    model.to(torch.bfloat16).save_pretrained(part)
    tokenizer.save_pretrained(part)
    rewrite(part / "tokenizer.json", renamed)
    rewrite(part / "generation_config.json", lambda found: {**found, "eos_token_id": STOPS})
    rewrite(part / "config.json", lambda found: {**found, "_name_or_path": "google/gemma-3-270m"})
    box = box_folder("tiny")
    settings = json.loads((box / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_max_length"] = model.config.max_position_embeddings
    (part / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    shutil.copy(box / "chat_template.jinja", part)
    shutil.rmtree(out, ignore_errors=True)
    part.replace(out)


def unquantized(model: Any) -> None:
    """Take from a model what says that it was quantized: `save_pretrained` would refuse it."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized, model.hf_quantizer, model.quantization_method = False, None, None


def renamed(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json with FunctionGemma's control tokens instead of the unused ones.

    Raises:
        ModelError: the ids hold other tokens.
    """
    names: dict[str, str] = {}
    for token in tokenizer["added_tokens"]:
        if token["id"] in CONTROL:
            names[token["content"]] = CONTROL[token["id"]]
            token |= {"content": CONTROL[token["id"]], "special": True}
    if len(names) != len(CONTROL) or not all("unused" in name or name in CONTROL.values() for name in names):
        raise ModelError(
            f"tokenizer.json: got {sorted(names)} at the ids of the control tokens, expected unused tokens"
        )
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {names.get(token, token): number for token, number in vocabulary.items()}
    return tokenizer


def rewrite(path: Path, change: Any) -> None:
    """Change a JSON file."""
    found = change(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
