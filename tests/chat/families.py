"""A small tokenizer per model family, with the family's control tokens and a chat template of its form.

The templates are written here from what is known of the families' forms; no file of theirs is used.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Core
from transformers import PreTrainedTokenizerFast

from steerkit.chat import Dialect, dialect_of
from steerkit.chat.tokenizer import _byte_characters
from tests.chat.conftest import byte_level, sentencepiece_like

GEMMA4_CONTROL = (
    *("<|turn>", "<turn|>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>"),
    *("<|tool_response>", "<tool_response|>", "<|channel>", "<channel|>", '<|"|>', "<|think|>"),
)
GEMMA4_TEMPLATE = """
{%- macro value(v) -%}
{%- if v is string -%}<|"|>{{ v }}<|"|>
{%- elif v is boolean -%}{{ 'true' if v else 'false' }}
{%- elif v is mapping -%}{{ '{' }}{{ members(v) }}{{ '}' }}
{%- elif v is sequence -%}[{% for i in v %}{{ value(i) }}{{ ',' if not loop.last }}{% endfor %}]
{%- else -%}{{ v }}{%- endif -%}
{%- endmacro -%}
{%- macro members(v) -%}
{%- for k, i in v | dictsort -%}{{ k }}:{{ value(i) }}{{ ',' if not loop.last }}{%- endfor -%}
{%- endmacro -%}
{{ bos_token }}
{%- set has_system = messages[0]['role'] == 'system' -%}
{%- if tools or has_system -%}
{{ '<|turn>system\n' }}{{ messages[0]['content'] if has_system }}
{%- for tool in tools or [] -%}
<|tool>declaration:{{ tool['function']['name'] }}{description:{{ value(tool['function']['description']) }},parameters:
{{- value(tool['function']['parameters']) }}}<tool|>
{%- endfor -%}
{{ '<turn|>\n' }}
{%- endif -%}
{%- set ns = namespace(last='') -%}
{%- for message in (messages[1:] if has_system else messages) -%}
{%- if message['role'] != 'tool' -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{%- if role != 'model' or ns.last != 'result' -%}{{ '<|turn>' + role + '\n' }}{%- endif -%}
{%- set ns.last = 'text' -%}
{%- for call in message['tool_calls'] or [] -%}
<|tool_call>call:{{ call['function']['name'] }}{{ value(call['function']['arguments']) }}<tool_call|>
{%- set ns.last = 'call' -%}
{%- endfor -%}
{%- for result in message['tool_responses'] or [] -%}
<|tool_response>response:{{ result['name'] }}{{ value(result['response']) }}<tool_response|>
{%- set ns.last = 'result' -%}
{%- endfor -%}
{{ message['content'] }}
{%- if ns.last == 'call' -%}<|tool_response>
{%- elif ns.last == 'text' or message['content'] -%}{{ '<turn|>\n' }}{%- set ns.last = 'text' -%}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and ns.last not in ('call', 'result') -%}{{ '<|turn>model\n' }}{%- endif -%}
"""

HERMES_TEMPLATE = """
{%- set has_system = messages[0]['role'] == 'system' -%}
{%- if tools or has_system -%}
{{ 'BEGINsystemROLE' }}{{ messages[0]['content'] if has_system }}
{%- if tools -%}
{{ '\n\nThe functions stand within <tools></tools>:\n<tools>' }}
{%- for tool in tools -%}{{ '\n' }}{{ tool | tojson }}{%- endfor -%}
{{ '\n</tools>\n\nWrite a call as\n<tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call>' }}
{%- endif -%}
{{ 'END\n' }}
{%- endif -%}
{%- for message in (messages[1:] if has_system else messages) -%}
{%- if message['role'] == 'tool' -%}
{%- if loop.first or loop.previtem['role'] != 'tool' -%}{{ 'BEGINuserROLE' }}{%- endif -%}
{{ RESULT }}
{%- if loop.last or loop.nextitem['role'] != 'tool' -%}{{ 'END\n' }}{%- endif -%}
{%- else -%}
{{ 'BEGIN' + message['role'] + 'ROLE' + message['content'] }}
{%- for call in message['tool_calls'] or [] -%}
{{ '\n' if message['content'] or not loop.first }}{{ '<tool_call>\n{"name": "' + call['function']['name'] }}
{{- '", "arguments": ' }}{{ call['function']['arguments'] | tojson }}{{ '}\n</tool_call>' }}
{%- endfor -%}
{{ 'END\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'BEGINassistantROLE' }}{%- endif -%}
"""
MARKED = "'\\n<tool_response>\\n' + message['content'] + '\\n</tool_response>'"
_WORDS = (
    '{"',
    '":',
    '"}',
    '"}}',
    '",',
    "name",
    "arguments",
    "_re",
    "tool",
    "Ġ{",
    'Ġ"',
    "ion",
    "get",
    "}}",
    "user",
    "},",
)


def gemma4() -> PreTrainedTokenizerFast:
    """As Gemma 4's: `▁` for spaces, bytes it has no token for, control tokens that are special."""
    return _with_byte_fallback(GEMMA4_CONTROL, GEMMA4_TEMPLATE)


def qwen3() -> PreTrainedTokenizerFast:
    """As Qwen3's: ChatML, tokens for calls, results and thoughts that are added and not special."""
    markup = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
    return _byte_level(("<|im_start|>", "<|im_end|>", "<|endoftext|>"), markup, hermes_template())


def qwen25() -> PreTrainedTokenizerFast:
    """As Qwen2.5's: ChatML, tokens for calls alone."""
    specials = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    return _byte_level(specials, ("<tool_call>", "</tool_call>"), hermes_template())


def granite4() -> PreTrainedTokenizerFast:
    """As Granite 4's: a token ends the role, and the end of a text ends the turn."""
    specials = ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")
    template = hermes_template("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")
    return _byte_level(specials, ("<tool_call>", "</tool_call>"), template)


def smollm3() -> PreTrainedTokenizerFast:
    """As SmolLM3's: ChatML, and a template that writes a result as the user's words."""
    markup = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
    template = hermes_template(result="message['content']")
    return _byte_level(("<|im_start|>", "<|im_end|>", "<|end_of_text|>"), markup, template)


def hermes_template(
    begin: str = "<|im_start|>", end_role: str = "\\n", end: str = "<|im_end|>", result: str = MARKED
) -> str:
    """A template of hermes' form in a frame of turns."""
    names = {"BEGIN": begin, "ROLE": end_role, "END": end, "RESULT": result}
    template = HERMES_TEMPLATE
    for name, text in names.items():
        template = template.replace(name, text)
    return template


def _with_byte_fallback(control: tuple[str, ...], template: str) -> PreTrainedTokenizerFast:
    letters = [chr(code) for code in range(33, 127)] + ["▁", "\n", "é"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *control, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = [("c", "a"), ("ca", "l"), ("cal", "l"), ("g", "e"), ("ge", "t"), ("}", ","), (":", "[")]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    core = Core(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens(["<pad>", "<eos>", "<bos>", *control])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=template,
    )


def _byte_level(specials: tuple[str, ...], markup: tuple[str, ...], template: str) -> PreTrainedTokenizerFast:
    tokens = list(_byte_characters())
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    core = Core(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(specials))
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in markup])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=specials[-1], pad_token=specials[-1], chat_template=template
    )


FAMILIES = {
    "functiongemma": ("functiongemma", byte_level),
    "functiongemma, byte fallback": ("functiongemma", sentencepiece_like),
    "gemma4": ("gemma4", gemma4),
    "qwen3": ("hermes", qwen3),
    "qwen2.5": ("hermes", qwen25),
    "granite4": ("hermes", granite4),
    "smollm3": ("hermes", smollm3),
}
"""By family, the dialect it speaks and its tokenizer."""


@cache
def family(name: str) -> Any:
    """The tokenizer of a family."""
    return FAMILIES[name][1]()


def written(dialect: Dialect, gemma: str, hermes: str) -> str:
    """A call of the dialect: its inside as Gemma's, with `~` for the quote, or as hermes'."""
    inside = hermes if dialect.syntax.name == "hermes" else gemma.replace("~", dialect.syntax.quote or "")
    return f"{dialect.syntax.call.begin}{inside}{dialect.syntax.call.end}"


def ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text in which control tokens are meant."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def stop(tokenizer: Any) -> list[int]:
    """The token that ends a turn."""
    return [dialect_of(tokenizer).end_turn]


def hermes_call(name: str, arguments: Any) -> str:
    """The inside of a call as hermes' templates write it."""
    return f"\n{json.dumps({'name': name, 'arguments': arguments})}\n"
