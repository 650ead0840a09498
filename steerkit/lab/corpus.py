"""Texts to train and measure SAEs on: conversations with tools, or plain ones, from a file or a dataset on disk."""

from __future__ import annotations

import json
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from steerkit.chat import Tokenizer, as_tools, dialect_of, render, token_bytes
from steerkit.engine import LoadedModel, tool_from_function
from steerkit.errors import MissingExtraError, SaeError, SteerkitError


class Conversation(NamedTuple):
    """Messages and tools, OpenAI style."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any]
    group: str | None = None
    """Its group, as its row names it; conversations of one group count once."""

    @property
    def asked(self) -> Sequence[Mapping[str, Any]]:
        """The messages up to the last that the model is to answer."""
        end = len(self.messages)
        while end and self.messages[end - 1].get("role") in ("assistant", "model"):
            end -= 1
        return self.messages[:end]

    @property
    def key(self) -> str:
        """The messages and tools as text; equal for copies."""
        return conversation_key(self.asked, self.tools)


@dataclass(frozen=True)
class Corpus:
    """Tokenised texts in the order of their source."""

    source: str
    texts: list[list[int]]
    """Token ids of each."""
    conversations: list[Conversation]
    """The conversations that the texts are of; empty for plain texts."""
    cut: int = 0
    """Texts that were cut at the greatest length."""

    @property
    def tokens(self) -> int:
        """Tokens of all texts together."""
        return sum(map(len, self.texts))


def read_corpus(
    path: Path,
    loaded: LoadedModel,
    *,
    text_column: str | None = None,
    max_tokens: int | None = None,
    limit: int | None = None,
) -> Corpus:
    """Read a JSONL file, or a folder that the `datasets` library saved.

    A row is a conversation, `{"messages": [...], "tools": [...]}`, rendered by the tokenizer's own chat template, or a
    text, `{"text": ...}`, tokenised with the beginning of sequence.

    Args:
        path: the file or folder.
        loaded: the model, for its tokenizer and context.
        text_column: column of the texts (default: `messages` where a row has it, else `text`).
        max_tokens: cut longer texts there; without it one that exceeds the model's context is an error.
        limit: read at most this many rows.

    Raises:
        SaeError: nothing to read, a row that is neither, or one that is too long; names file and line.
        MissingExtraError: a dataset folder without the `datasets` library.
    """
    context = int(getattr(loaded.model.config.get_text_config(), "max_position_embeddings", 0)) or None
    most = min(max_tokens or context or 0, context or max_tokens or 0) or None
    texts: list[list[int]] = []
    conversations: list[Conversation] = []
    cut = 0
    for where, row in read_rows(path):
        if limit is not None and len(texts) == limit:
            break
        ids, conversation = _tokens(where, row, loaded, text_column)
        if most and len(ids) > most:
            if max_tokens is None:
                raise SaeError(
                    f"{where}: got {len(ids):,} tokens, expected at most {most:,}, the model's context; shorten it, or "
                    f"give --max-tokens to cut what is longer"
                )
            ids, cut = ids[:most], cut + 1
        texts.append(ids)
        conversations += [conversation] if conversation else []
    if not texts:
        raise SaeError(f'{path}: got no rows, expected lines such as {{"messages": [...], "tools": [...]}}')
    return Corpus(str(path), texts, conversations if len(conversations) == len(texts) else [], cut)


def read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row with its place, as an error names it."""
    if path.is_dir():
        yield from _dataset(path)
        return
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                where = f"{path}:{number}"
                if number == 1:
                    line = _without_mark(path, line)
                if line.strip():
                    yield where, _object(where, line)
    except OSError as error:
        raise SaeError(
            f"{path}: cannot be read ({error.strerror}); expected a JSONL file or a dataset folder"
        ) from None


def _without_mark(path: Path, line: bytes) -> bytes:
    """The first line of a file without UTF-8's byte order mark. Raises SaeError: another encoding's."""
    if line.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise SaeError(f"{path}: not UTF-8 text (UTF-16, as its first bytes say); expected a JSONL file in UTF-8")
    return line.removeprefix(BOM_UTF8)


def _object(where: str, line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line.decode(), parse_constant=_no_number)
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        path, _, number = where.rpartition(":")
        at = f"byte {error.start + 1} of line {number}"
        raise SaeError(f"{path}: not UTF-8 text ({at}); expected a JSONL file or a dataset folder") from None
    except UnicodeEncodeError:
        raise SaeError(f"{where}: holds half a character (a lone surrogate, \\ud800 to \\udfff)") from None
    except RecursionError:
        raise SaeError(f"{where}: JSON that is nested too deeply to be read; expected messages and tools") from None
    except ValueError as error:
        raise SaeError(f"{where}: not JSON ({error}); expected one object a line (JSONL)") from None
    if not isinstance(row, Mapping):
        raise SaeError(f"{where}: got {type(row).__name__}, expected an object with messages or a text, one a line")
    return row


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _dataset(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError:
        raise MissingExtraError.of(f"{path}: a dataset folder", "data", "or give a JSONL file") from None
    try:
        found = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SaeError(f"{path}: not a folder that the datasets library saved ({reason})") from None
    if isinstance(found, DatasetDict):
        if len(found) != 1:
            raise SaeError(f"{path}: got the splits {', '.join(found)}; give the folder of one, such as {path}/train")
        (found,) = found.values()
    for number, row in enumerate(found):
        yield f"{path}[{number}]", _filled(row)


def _tokens(
    where: str, row: Mapping[str, Any], loaded: LoadedModel, column: str | None
) -> tuple[list[int], Conversation | None]:
    if column is None and row.get("messages") is not None:
        return _conversation(where, row, loaded)
    name = column or "text"
    text = row.get(name)
    if not isinstance(text, str) or not text:
        got = f"{type(text).__name__} in {name}" if name in row else f"the columns {', '.join(row) or 'none'}"
        raise SaeError(f"{where}: got {got}, expected messages, or a text in {name} (--text-column names another)")
    return list(loaded.tokenizer(text, verbose=False)["input_ids"]), None


def _conversation(where: str, row: Mapping[str, Any], loaded: LoadedModel) -> tuple[list[int], Conversation]:
    """A complete conversation: where it ends with the model's words, without the mark that asks for more."""
    messages, tools, group = conversation_of(where, row)
    try:
        prompt = render(loaded.tokenizer, messages, as_tools(tools, from_function=tool_from_function))
    except SteerkitError as error:
        raise SaeError(f"{where}: {error}") from None
    ids = list(prompt.ids)
    if messages[-1].get("role") in ("assistant", "model") and not prompt.open_model_turn:
        begin = dialect_of(loaded.tokenizer).turn
        ids = ids[: len(ids) - 1 - ids[::-1].index(begin)]
    return ids, Conversation(messages, tools, group)


def conversation_key(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> str:
    """Messages and tools as one text, equal where they are, whatever the order of keys."""
    return json.dumps([list(messages), list(tools)], sort_keys=True, default=asdict)


def conversation_of(where: str, row: Mapping[str, Any]) -> Conversation:
    """The conversation of a row, its parts of the right kind. Raises SaeError."""
    messages, tools, group = row.get("messages"), row.get("tools") or [], row.get("group")
    if not isinstance(messages, list) or not messages:
        got = "none" if messages is None else "an empty one" if messages == [] else type(messages).__name__
        raise SaeError(f"{where}: messages: expected a list of at least one, got {got}; a row is a conversation")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise SaeError(
                f'{where}: messages[{number}]: expected an object such as {{"role": "user", "content": "…"}}'
            )
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
    except (ValueError, RecursionError):
        raise SaeError(f"{where}: tools: got a text that is no JSON, expected a list of tools") from None
    if not isinstance(tools, list):
        raise SaeError(f"{where}: tools: got {type(tools).__name__}, expected a list of tools")
    if isinstance(group, bool) or not isinstance(group, (str, int, NoneType)):
        raise SaeError(f"{where}: group: got {type(group).__name__}, expected a text or a whole number")
    return Conversation(messages, tools, None if group in (None, "") else str(group))


def _filled(value: Any) -> Any:
    """A value without the empty fields that a dataset's columns give every row."""
    if isinstance(value, Mapping):
        return {key: _filled(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_filled(item) for item in value]
    return value


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    """Text of each token; a character whose bytes are spread over several stands at the last of them."""
    table, decoder = token_bytes(tokenizer), getincrementaldecoder("utf-8")("replace")
    pieces = [decoder.decode(table(token)) for token in ids]
    return (*pieces[:-1], pieces[-1] + decoder.decode(b"", True)) if pieces else ()
