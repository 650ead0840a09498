"""Whose turn a message stands in, whatever the chat template does, and what a result may cost."""

from __future__ import annotations

import json
from copy import copy
from typing import Any

import pytest

from steerkit.chat import render, steps_by_place
from steerkit.errors import MessageError
from tests.chat.test_pairing import USER, asks, told

LEAVES_OPEN = """{{ bos_token }}{%- set ns = namespace(last='') -%}
{%- for message in messages -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{%- if role == 'tool' -%}
{%- for part in message['content'] -%}
<start_function_response>response:{{ part['name'] }}{value:1}<end_function_response>
{%- endfor -%}
{%- set ns.last = 'result' -%}
{%- else -%}
{%- if ns.last != 'result' -%}{{ '<start_of_turn>' + role + '\n' }}{%- endif -%}
{{- message['content'] or '' -}}
{%- if message['tool_calls'] -%}
{%- for call in message['tool_calls'] -%}
<start_function_call>call:{{ call['function']['name'] }}{}<end_function_call>
{%- endfor -%}
{%- set ns.last = 'call' -%}
{%- else -%}{{ '<end_of_turn>\n' }}{%- set ns.last = 'text' -%}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if ns.last == 'call' -%}<start_function_response>
{%- elif ns.last != 'result' -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"""
"""As the published template, a turn is left open after a result, whoever speaks next."""

SAID = {"role": "user", "content": "unlock"}
CALL, RESULT = asks(("a", "get")), told("1", tool_call_id="a")
HISTORIES: dict[str, list[Any]] = {
    "after a result": [USER, CALL, RESULT, SAID],
    "after two results": [USER, asks(("a", "get"), ("b", "get")), told("2", tool_call_id="b"), RESULT, SAID],
    "after a developer's word": [USER, CALL, RESULT, {"role": "developer", "content": "mind"}, SAID],
    "after calls without results": [USER, CALL, SAID],
    "after an answer": [USER, CALL, RESULT, {"role": "assistant", "content": "ok"}, SAID],
    "after an empty answer": [USER, CALL, RESULT, {"role": "assistant", "content": None}, SAID],
    "after more calls": [USER, CALL, RESULT, asks(("a", "put")), told("2", tool_call_id="a"), SAID],
}


def leaving_open(tokenizer: Any) -> Any:
    other = copy(tokenizer)
    other.chat_template = LEAVES_OPEN
    return other


@pytest.mark.parametrize("case", HISTORIES)
@pytest.mark.parametrize("of_the_box", [True, False])
def test_a_users_message_stands_in_the_users_turn(tokenizer: Any, case: str, of_the_box: bool) -> None:
    """The model's turn is closed first, and every token of the message is at the place `user`."""
    if not of_the_box:
        tokenizer = leaving_open(tokenizer)
    prompt = render(tokenizer, HISTORIES[case])
    assert prompt.text.endswith("<end_of_turn>\n<start_of_turn>user\nunlock<end_of_turn>\n<start_of_turn>model\n")
    assert prompt.text.count("<start_of_turn>") == prompt.text.count("<end_of_turn>") + 1
    spans = steps_by_place(tokenizer, prompt.ids, [])["user"]
    read = [tokenizer.decode(prompt.ids[span.start : span.end]) for span in spans]
    assert len(read) == 2
    assert "unlock" in read[-1]


def test_the_template_alone_leaves_it_in_the_models_turn(tokenizer: Any) -> None:
    """The control: without the empty answer in between, the user's words stand in the model's turn."""
    history = [USER, CALL, {"role": "tool", "content": [{"name": "get", "response": {}}]}, SAID]
    text = leaving_open(tokenizer).apply_chat_template(history, add_generation_prompt=True, tokenize=False)
    assert "<end_function_response>unlock" in text


def test_a_template_that_drops_the_users_turn_is_refused(tokenizer: Any) -> None:
    """What no gate at `user` would read is not rendered."""
    other = copy(tokenizer)
    other.chat_template = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(MessageError, match=r"messages: got 0 turns of the user from the chat template, expected 1"):
        render(other, [USER])


def response(tokenizer: Any, result: Any) -> tuple[int, str]:
    """How many tokens a result takes, and its text."""

    def prompt(content: Any) -> Any:
        return render(tokenizer, [USER, CALL, told(content, tool_call_id="a")])

    text = prompt(result).text.split("response:get")[1].removesuffix("<end_function_response>")
    return len(prompt(result).ids) - len(prompt({}).ids), text


COSTLY = {
    "one key": {"{" * number: 1 for number in range(1, 80)},
    "keys of one letter": {chr(0x4E00 + number): 1 for number in range(400)},
    "keys and their likes": {key: 1 for number in range(100) for key in (f"a{chr(0x4E00 + number)}", f"a__{number}")},
    "nested": [{"{": {"}": 1, "]": 2}, "[": 3}] * 50,
}


@pytest.mark.parametrize("case", COSTLY)
def test_keys_that_cannot_be_written_do_not_grow(tokenizer: Any, case: str) -> None:
    """A result takes about as many tokens as it has characters, however its keys collide; and each keeps its own."""
    result = COSTLY[case]
    tokens, text = response(tokenizer, result)
    assert tokens <= 2 * len(json.dumps(result))
    if isinstance(result, dict):
        keys = [pair.partition(":")[0] for pair in text.strip("{}").split(",")]
        assert len(set(keys)) == len(keys) == len(result)
        assert {key for key in result if key.isascii() and "{" not in key} <= set(keys)


def test_numbering_keeps_what_can_be_written(tokenizer: Any) -> None:
    """A key of the grammar keeps its name, also where others would become it; the others are numbered."""
    assert response(tokenizer, {"a{": 1, "a}": 2, "a_": 3, "a_2": 4, "": 5})[1] == "{_:5,a_:3,a_2:4,a_3:1,a_4:2}"
