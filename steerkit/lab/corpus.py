"""What SAEs are trained and measured on: conversations with tools, or plain texts, from a file or a dataset on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from steerkit.chat import as_tools, render
from steerkit.engine import LoadedModel, tool_from_function
from steerkit.errors import MissingExtraError, SaeError, SteerkitError


class Conversation(NamedTuple):
    """Messages and tools, OpenAI style."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any]
    group: str | None = None
    """Which conversations it belongs together with, as its row says."""

    @property
    def asked(self) -> Sequence[Mapping[str, Any]]:
        """The messages up to the last that the model is to answer."""
        end = len(self.messages)
        while end and self.messages[end - 1].get("role") in ("assistant", "model"):
            end -= 1
        return self.messages[:end]


@dataclass(frozen=True)
class Corpus:
    """Tokenised texts in the order of their source."""

    source: str
    texts: list[list[int]]
    """Token ids of each."""
    conversations: list[Conversation]
    """Where the texts come from; empty for plain texts."""
    cut: int = 0
    """Texts that were cut at the greatest length."""

    @property
    def tokens(self) -> int:
        """Of all texts together."""
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
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}:{number}", _object(f"{path}:{number}", line)
    except OSError as error:
        raise SaeError(
            f"{path}: cannot be read ({error.strerror}); expected a JSONL file or a dataset folder"
        ) from None
    except UnicodeDecodeError:
        raise SaeError(f"{path}: not UTF-8 text; expected a JSONL file or a dataset folder") from None


def _object(where: str, line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SaeError(f"{where}: not JSON ({error}); expected one object a line") from None
    if not isinstance(row, Mapping):
        raise SaeError(f"{where}: got {type(row).__name__}, expected an object with messages or a text")
    return row


def _dataset(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError:
        raise MissingExtraError(
            f"{path}: a dataset folder needs the datasets library: pip install 'steerkit[data]', or give a JSONL file"
        ) from None
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
    return list(loaded.tokenizer(text)["input_ids"]), None


def _conversation(where: str, row: Mapping[str, Any], loaded: LoadedModel) -> tuple[list[int], Conversation]:
    """A whole conversation: where it ends with the model's words, without the mark that asks for more."""
    tools, messages = row.get("tools") or [], row["messages"]
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
        prompt = render(loaded.tokenizer, messages, as_tools(tools, from_function=tool_from_function))
    except ValueError:
        raise SaeError(f"{where}: tools: got a text that is no JSON, expected a list of tools") from None
    except SteerkitError as error:
        raise SaeError(f"{where}: {error}") from None
    ids = list(prompt.ids)
    if messages[-1].get("role") in ("assistant", "model") and not prompt.open_model_turn:
        begin = loaded.tokenizer.get_vocab()["<start_of_turn>"]
        ids = ids[: len(ids) - 1 - ids[::-1].index(begin)]
    return ids, Conversation(messages, tools, group_of(where, row))


def group_of(where: str, row: Mapping[str, Any]) -> str | None:
    """What a row says in `group`; None where it says nothing. Raises SaeError."""
    group = row.get("group")
    if isinstance(group, bool) or not isinstance(group, (str, int, NoneType)):
        raise SaeError(f"{where}: group: got {type(group).__name__}, expected a text or a whole number")
    return None if group is None or group == "" else str(group)


def _filled(value: Any) -> Any:
    """A value without the empty fields that a dataset's columns give every row."""
    if isinstance(value, Mapping):
        return {key: _filled(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_filled(item) for item in value]
    return value
