"""The box's tokenizer: byte-level BPE with FunctionGemma's control tokens, template and response template."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Any, Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from steerkit.chat.dialects.functiongemma import CONTROL as FORMAT

CONTROL: Final[tuple[str, ...]] = ("<pad>", "<eos>", "<bos>", *FORMAT)
"""Control tokens in the order of their ids, 0 to 11."""

STOPS: Final[tuple[str, ...]] = ("<end_of_turn>", "<start_function_response>", "<eos>")
"""Tokens that end a generation."""

VOCABULARY: Final = 1024

# Words, digits, spaces and every mark apart: a value is then the same tokens after a space and after <escape>,
# and the token before a tool's name is always ":".
_PIECES: Final = r"\p{N}|\s|[\p{L}_]+|[^\p{L}\p{N}_\s]"

RESPONSE_TEMPLATE: Final[dict[str, Any]] = {
    # A reply may go on after a tool's result in the same model turn, so the newest of the two is where it starts.
    "start_anchor": ["<start_of_turn>model\n", "<end_function_response>"],
    "defaults": {"role": "assistant"},
    "fields": {
        "content": {"close": ["<end_of_turn>", "<start_function_response>", "<eos>"]},
        "tool_calls": {
            "open_pattern": r"<start_function_call>\s*call:(?P<name>[A-Za-z0-9_.\-]+)",
            "close": "<end_function_call>",
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [["<escape>", "<escape>"]]},
            "repeats": True,
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
    },
}
"""The schema by which transformers' `parse_response` reads the box's replies."""


def template() -> str:
    """The Jinja chat template's text."""
    return resources.files("steerkit.tiny.training").joinpath("chat_template.jinja").read_text(encoding="utf-8")


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A tokenizer of `vocabulary` entries, its merges learned from rendered conversations."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens=list(CONTROL[3:]),
        chat_template=template(),
        response_template=RESPONSE_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
