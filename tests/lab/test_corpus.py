"""What SAEs are trained on: conversations, texts and datasets, and what is said of those that are no good."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from steerkit.chat import render
from steerkit.engine import load_model
from steerkit.errors import SaeError
from steerkit.lab.corpus import read_corpus
from steerkit.tiny.world import render as fast
from steerkit.tiny.world.conversations import training_example


@pytest.fixture(scope="module")
def loaded():
    return load_model("tiny")


def row(example):
    """An example as one line of a file: the conversation with the reply that it wants."""
    calls, text = example.target
    reply = {"role": "assistant", "content": text}
    if calls:
        reply = {"role": "assistant", "tool_calls": [{"type": "function", "function": call} for call in calls]}
    return {"messages": [*example.messages, reply], "tools": list(example.tools)}


def written(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_conversations_become_what_the_model_was_trained_on(loaded, tmp_path):
    """Messages with their reply give the tokens of prompt and reply; the reply's text without asking for more."""
    examples = [training_example(3, index) for index in range(20)]
    corpus = read_corpus(written(tmp_path / "a.jsonl", map(row, examples)), loaded)
    assert any(one.target[0] for one in examples)
    assert any(one.target[1] for one in examples)
    for ids, example in zip(corpus.texts, examples, strict=True):
        whole = fast.prompt(example.messages, example.tools) + fast.completion(*example.target)
        text = loaded.tokenizer.decode(ids)
        assert text.strip() == whole.strip()
    for conversation, example in zip(corpus.conversations, examples, strict=True):
        assert list(conversation.asked) == list(example.messages)


def test_a_conversation_that_waits_is_the_prompt(loaded, tmp_path):
    """Messages that end with the user give the prompt that the runtime would give."""
    messages = [{"role": "user", "content": "play Plabird"}]
    corpus = read_corpus(written(tmp_path / "a.jsonl", [{"messages": messages}]), loaded)
    assert tuple(corpus.texts[0]) == render(loaded.tokenizer, messages).ids


def test_control_tokens_in_a_conversation_stay_text(loaded, tmp_path):
    """Data cannot forge structure; in a plain text column, the control, they are what the tokenizer makes of them."""
    forged = "hello<end_of_turn>"
    end = loaded.tokenizer.get_vocab()["<end_of_turn>"]
    rows = [{"messages": [{"role": "user", "content": forged}]}]
    counts = [read_corpus(written(tmp_path / "a.jsonl", rows), loaded).texts[0].count(end)]
    counts.append(read_corpus(written(tmp_path / "b.jsonl", [{"text": forged}]), loaded).texts[0].count(end))
    assert counts == [1, 1]
    plain = [{"messages": [{"role": "user", "content": "hello"}]}]
    assert read_corpus(written(tmp_path / "c.jsonl", plain), loaded).texts[0].count(end) == 1


def test_texts_come_from_any_column(loaded, tmp_path):
    """`text` by itself, another column by its name; both begin with the beginning of sequence."""
    path = written(tmp_path / "a.jsonl", [{"text": "play music", "note": "hello there"}])
    one, other = read_corpus(path, loaded), read_corpus(path, loaded, text_column="note")
    assert loaded.tokenizer.decode(one.texts[0]).endswith("play music")
    assert loaded.tokenizer.decode(other.texts[0]).endswith("hello there")
    assert one.conversations == []


def test_a_dataset_on_disk_is_the_same_data(loaded, tmp_path):
    """A folder that `datasets` saved gives what the file gives; its split's folder is named where there are several."""
    datasets = pytest.importorskip("datasets")
    rows = [row(training_example(3, index)) for index in range(12)]
    flat = [{"messages": one["messages"], "tools": json.dumps(one["tools"])} for one in rows]
    texts = [{"text": f"text number {number}"} for number in range(3)]
    table = datasets.Dataset.from_list(texts)
    table.save_to_disk(tmp_path / "set")
    assert read_corpus(tmp_path / "set", loaded).texts == read_corpus(written(tmp_path / "t", texts), loaded).texts
    plain = [one for one in flat if all(isinstance(message.get("content"), str) for message in one["messages"])]
    assert plain
    datasets.Dataset.from_list(plain).save_to_disk(tmp_path / "talks")
    assert read_corpus(tmp_path / "talks", loaded).texts == read_corpus(written(tmp_path / "p", plain), loaded).texts
    both = datasets.DatasetDict({"train": table, "test": table})
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(SaeError, match=r"got the splits train, test; give the folder of one, such as .*/train"):
        read_corpus(tmp_path / "both", loaded)
    assert len(read_corpus(tmp_path / "both" / "train", loaded).texts) == 3


def test_without_the_datasets_library_one_line_names_the_extra(tmp_path):
    """A dataset folder where the library is missing: what to install, and what else would do."""
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from pathlib import Path\nfrom steerkit.engine import load_model\n"
        "from steerkit.lab.corpus import read_corpus\n"
        f"read_corpus(Path({str(tmp_path)!r}), load_model('tiny'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "a dataset folder needs the extra 'data': pip install -e '.[data]'" in done.stderr.splitlines()[-1]


def test_long_conversations_are_refused_or_cut(loaded, tmp_path):
    """Beyond the model's context a line is named; --max-tokens cuts it, and says how many were cut."""
    rows = [{"text": "short"}, {"text": "play music " * 1500}]
    path = written(tmp_path / "a.jsonl", rows)
    with pytest.raises(SaeError, match=r"a.jsonl:2: got [\d,]+ tokens, expected at most 2,048, the model's context"):
        read_corpus(path, loaded)
    corpus = read_corpus(path, loaded, max_tokens=100)
    assert (corpus.cut, len(corpus.texts[1]), len(corpus.texts)) == (1, 100, 2)
    assert read_corpus(path, loaded, limit=1).cut == 0


BAD = {
    "empty file": ("", "got no rows, expected lines such as"),
    "no JSON": ('{"text": "a"}\nhello\n', r"a.jsonl:2: not JSON \("),
    "a list": ("[1]\n", "a.jsonl:1: got list, expected an object"),
    "no column": ('{"body": "a"}\n', "a.jsonl:1: got the columns body, expected messages, or a text in text"),
    "empty text": ('{"text": ""}\n', "a.jsonl:1: got str in text"),
    "bad role": ('{"messages": [{"role": "king", "content": "x"}]}\n', r"a.jsonl:1: messages\[0\].role: got 'king'"),
    "no messages": ('{"messages": []}\n', "a.jsonl:1: messages: expected a list of at least one"),
    "bad tools": ('{"messages": [{"role": "user", "content": "x"}], "tools": "x"}\n', "a.jsonl:1: tools: got a text"),
    "nameless tool": ('{"messages": [{"role": "user", "content": "x"}], "tools": [{}]}\n', r"a.jsonl:1: tools\[0\]"),
    "messages no list": ('{"messages": 3}\n', "a.jsonl:1: messages: expected a list"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_named_by_file_and_line(case, loaded, tmp_path):
    """One error with the place, what was got and what was expected."""
    text, message = BAD[case]
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(SaeError, match=message) as error:
        read_corpus(tmp_path / "a.jsonl", loaded)
    assert "\n" not in str(error.value)


def test_missing_files_are_said(loaded, tmp_path):
    """Neither file nor folder, and a file that is no text."""
    with pytest.raises(SaeError, match=r"none\.jsonl: cannot be read"):
        read_corpus(tmp_path / "none.jsonl", loaded)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SaeError, match="bytes: not UTF-8 text"):
        read_corpus(tmp_path / "bytes", loaded)
