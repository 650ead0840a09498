"""Scores count what the wanted reply says, and the card says how far off they are."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import steerkit
from steerkit.chat import parse
from steerkit.engine import load_model
from steerkit.lab import Share
from tests.real_model.bfcl_folder import write_bfcl


def test_right_replies_score_whole_and_wrong_ones_nothing() -> None:
    """A model that says what is wanted has every point; one that calls an unknown tool has none."""
    import dataset
    import trees
    from evaluate import held_scores

    tokenizer = load_model("tiny").tokenizer
    rows = dataset.held_rows(80)
    read = [trees.read(row, tokenizer) for row in rows]
    begins = [max(n for n in one.wanted if n - 1 not in one.wanted) for one in read]
    right = [parse(tokenizer, one.ids[begin:]) for one, begin in zip(read, begins, strict=True)]
    wrong = parse(
        tokenizer, tokenizer.encode("<start_function_call>call:f{}<end_function_call>", add_special_tokens=False)
    )
    scores = held_scores(rows, right)  # type: ignore[arg-type]
    assert {score.share.value for score in scores} == {1.0}
    assert {score.asked for score in scores} >= {"single calls, exact", "no tool fits, no call", "orders obeyed, tool"}
    assert {score.share.value for score in held_scores(rows, [wrong] * len(rows))} == {0.0}  # type: ignore[list-item]


def test_an_answer_must_tell_the_result() -> None:
    """Control: without the result's value it is no right answer, though it makes no call."""
    from evaluate import held_scores

    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Riga"}}}
    messages = [
        {"role": "user", "content": "Weather in Riga?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "name": "get_weather", "content": {"sky": "hazy", "temperature": 7}},
        {"role": "assistant", "content": "It is hazy in Riga, 7 degrees."},
    ]
    row: dict[str, Any] = {"source": "answer", "tools": [], "messages": messages}
    turns = [SimpleNamespace(calls=(), text=text) for text in ("Hazy: hazy, 7.", "It is sunny in Riga.")]
    told, silent = (held_scores([row], [turn]) for turn in turns)  # type: ignore[list-item]
    assert [score.share.hits for score in told] == [1, 1]
    assert [score.share.hits for score in silent] == [1, 0]


def test_the_box_is_scored_and_gets_a_card(tmp_path: Path) -> None:
    import card
    from evaluate import Score, scores_of

    runtime = steerkit.load("tiny", audit=False)
    scores = scores_of(runtime, write_bfcl(tmp_path / "bfcl"), count=12, tests=2, out=tmp_path / "out")
    kept = [json.loads(line) for line in (tmp_path / "out" / "held.jsonl").read_text().splitlines()]
    assert len(kept) == 24
    assert all(row["right"] and row.keys() >= {"messages", "said", "called"} for row in kept)
    assert (tmp_path / "out" / "bfcl_2" / "plain.jsonl").exists()
    assert {score.asked for score in scores} >= {"orders obeyed, tool", "BFCL simple", "BFCL irrelevance"}
    scores.append(Score("BFCL multiple", Share(1, 4)))
    text = card.write_card(tmp_path, scores, {"seed": 0, "conversations": 7})
    assert (tmp_path / "card.md").read_text() == text
    assert "| BFCL multiple | 1 | 4 | 25 % |" in text
    assert "BFCL multiple -38" in text
    assert "BFCL multiple" in text.split("Aims that are missed:")[1]
    written = json.loads((tmp_path / "card.json").read_text())
    assert written["scores"][-1]["functiongemma"] == 0.635
    assert written["built"] == {"seed": 0, "conversations": 7}
