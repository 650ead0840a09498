"""Sets of conversations: what the stand-in is tuned on, and what is kept out of that to choose policies and to test.

    python benchmarks/real_model/dataset.py OUT [--count 64] [--bfcl FOLDER]

OUT gets, for each danger (`money`, `files`: deletions and commands, `orders`: orders hidden in results) and each use
(`choose`, `report`), a file of harmful and one of benign conversations, as `steerkit features find`, `calibrate` and
`eval` take them, without near-copies; `report` shares no wording and no open-ended value with `choose` or tuning. Of
money and files, `choose` has half as many refusals among the benign ones: where a refusal leads is what a search wants
to know. `held.jsonl` are other held-out conversations, with the wanted reply last. With BFCL's data also
`tuning.jsonl`, what the model is tuned on.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import bfcl
from catalogue import Entry, catalogue
from conversations import (
    AGENT,
    FOREIGN,
    INVENTED,
    TUNED,
    Row,
    Writer,
    of_agent,
    of_agent_with_more,
    of_all_kinds,
    of_invented,
)
from values import Split

from steerkit.lab.copies import copies_of
from steerkit.lab.copies import said as words_of
from steerkit.lab.prove.suites.cases import SuiteCase, read_bfcl

MADE: Final[Mapping[str, int]] = {"agent": 2_100, "functions": 600, "invented": 2_600}
"""Conversations made for the tuning, beside BFCL's."""
DANGERS: Final = ("money", "files", "orders")
SPLITS: Final[tuple[Split, ...]] = ("choose", "report")
_WORDS: Final = re.compile(r"\w+")


def tuning_rows(folder: Path, seed: int, made: Mapping[str, int] = MADE) -> list[Row]:
    """What the model is tuned on, without any value or question of the held-out sets.

    Args:
        folder: BFCL's data.
        seed: of the conversations that are made.
        made: conversations of each kind.
    """
    writer = Writer(seed, "tune")
    agent = _some(writer.groups(TUNED, of_agent_with_more, 7), made["agent"])
    functions = _some(writer.groups(FOREIGN, of_all_kinds, 5), made["functions"])
    invented = _some(writer.groups(INVENTED, of_invented, 4), made["invented"])
    held = [*held_rows(), *(row for danger in DANGERS for side in danger_rows(danger, "report", 128) for row in side)]
    cases = read_bfcl(folder)
    rows = without_tested([*agent, *functions, *invented], cases)
    asked = questions_of(held)
    rows = [row for row in (*rows, *bfcl.rows(folder, seed, cases)) if not questions_of([row]) & asked]
    return without_values(rows, values_of(held))


def without_tested(rows: Iterable[Row], cases: Sequence[SuiteCase]) -> list[Row]:
    """The rows without any function, question or value of two words and more of BFCL's scored tests."""
    tested = [case for case in cases if case.category in bfcl.TESTED]
    names = bfcl.tested_names(cases)
    asked = {plain(str(message["content"])) for case in tested for message in case.messages}
    values = bfcl.tested_values(cases)
    kept = [row for row in rows if not names & {tool["function"]["name"] for tool in row["tools"]}]
    return without_values((row for row in kept if not questions_of([row]) & asked), values)


def held_rows(count: int = 240, split: Split = "report") -> list[Row]:
    """Conversations of all kinds in a split's wordings and values, no two with the same tools declared."""
    writer = Writer(0, split)
    agent = _some((group[:1] for group in writer.groups(AGENT, of_agent, 2)), count * 3 // 4)
    functions = _some((group[:1] for group in writer.groups(FOREIGN, of_all_kinds, 2)), count - len(agent))
    return [*agent, *functions]


def danger_rows(danger: str, split: Split, count: int = 64) -> tuple[list[Row], list[Row]]:
    """Harmful and benign conversations of a danger, with the wanted reply last.

    Money and files: somebody asks for such a call, or for something else while such a tool is declared. Orders: a
    result holds an order, or speaks of such deeds, or neither.
    """
    writer = Writer(DANGERS.index(danger) + 1, split)
    if danger == "orders":
        harmful = _some(_rows(writer, "obey", of_agent), count)
        quiet = Writer(len(DANGERS) + 1, split)
        kinds = ["mention", "mention", "answer"]
        return harmful, [one for n in range(count) for one in _some(_rows(quiet, kinds[n % 3], _readers), 1)]
    names = {name for entry in _acting(danger) for name in entry.names}
    some = _rows(writer, "call", partial(_beside, danger))
    harmful: list[Row] = []
    benign: list[Row] = []
    for [row] in some:
        side = harmful if row["messages"][-1]["tool_calls"][0]["function"]["name"] in names else benign
        if len(side) < count:
            side.append(row)
        if len(harmful) == len(benign) == count:
            break
    declared_names = [{tool["function"]["name"] for tool in row["tools"]} & names for row in (*harmful, *benign)]
    for row, dangerous in zip((*harmful, *benign), declared_names, strict=True):
        row["dangerous"] = sorted(dangerous)
    return harmful, benign


def refused_rows(danger: str, split: Split, count: int) -> list[Row]:
    """Requests that none of the tools fits, a dangerous one declared among them."""
    writer = Writer(len(DANGERS) + DANGERS.index(danger) + 2, split)
    return _some(_rows(writer, "none", partial(_beside, danger)), count)


def without_copies(rows: Sequence[Row], count: int) -> list[Row]:
    """The first so many rows that are no near-copies of rows before them, as far as statistics tell them apart."""
    asked = [row["messages"][:-1] for row in rows]
    groups = copies_of([[json.dumps(one)] for one in asked], [words_of(one) for one in asked]).groups
    return [rows[groups.index(number)] for number in range(min(count, max(groups) + 1))]


def values_of(rows: Iterable[Row]) -> set[str]:
    """The open-ended values that rows were made with, as plain words."""
    return {words for row in rows for value in row["values"] if (words := plain(value)) and not words.isdigit()}


def questions_of(rows: Iterable[Row]) -> set[str]:
    """What users say in rows, as plain words."""
    return {plain(str(m["content"])) for row in rows for m in row["messages"] if m["role"] == "user"}


def without_values(rows: Iterable[Row], values: set[str]) -> list[Row]:
    """The rows that hold none of some values."""
    found = re.compile(f" (?:{'|'.join(map(re.escape, sorted(values)))}) ") if values else None
    return [row for row in rows if not (found and found.search(said(row)))]


def said(row: Row) -> str:
    """Everything a row's messages say, as plain words between spaces."""
    return f" {plain(json.dumps(row['messages'], ensure_ascii=False))} "


def plain(text: str) -> str:
    """Words in small letters, one space between them."""
    return " ".join(_WORDS.findall(text.lower()))


def leaks(tuning: Sequence[Row], held: Sequence[Row], tested_names: Iterable[str] = ()) -> list[str]:
    """What of the held-out sets the tuning has seen: wordings, values, questions, and tested functions; empty if all
    is well."""
    wordings = {wording for row in tuning for wording in row["wordings"]}
    names = {tool["function"]["name"] for row in tuning for tool in row["tools"]}
    text = "".join(map(said, tuning))
    found = [f"wording: {one}" for one in sorted({w for row in held for w in row["wordings"]} & wordings)]
    found += [f"value: {value}" for value in sorted(values_of(held)) if f" {value} " in text]
    found += [f"question: {one}" for one in sorted(questions_of(held) & questions_of(tuning))]
    return found + [f"function: {name}" for name in sorted(names & set(tested_names))]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSONL; the whole file or none."""
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)


def write_sets(out: Path, count: int) -> list[Path]:
    """Write the sets for choosing and for reports, and return their files."""
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for danger in DANGERS:
        for split in SPLITS:
            sides = [without_copies(rows, count) for rows in danger_rows(danger, split, 4 * count)]
            if split == "choose" and danger != "orders":
                sides[1] += without_copies(refused_rows(danger, split, count), count // 2)
            for kind, rows in zip(("harmful", "benign"), sides, strict=True):
                path = out / f"{danger}_{split}_{kind}.jsonl"
                write_rows(path, rows)
                found.append(path)
    write_rows(out / "held.jsonl", held_rows())
    return [*found, out / "held.jsonl"]


def _acting(danger: str) -> list[Entry]:
    return [entry for entry in catalogue("tools") if entry.acts == danger]


def _beside(danger: str, rng: random.Random) -> list[Entry]:
    """A dangerous tool beside one or two others."""
    others = [entry for entry in catalogue("tools") if entry.acts != danger]
    return [rng.choice(_acting(danger)), *rng.sample(others, rng.choice([1, 2, 2]))]


def _readers(rng: random.Random) -> list[Entry]:
    """Tools of an agent among which one reads and is asked for."""
    acts = [entry for entry in catalogue("tools") if entry.acts and not entry.reads]
    return [rng.choice([entry for entry in catalogue("tools") if entry.reads]), rng.choice(acts)]


def _rows(writer: Writer, kind: str, entries: Callable[[random.Random], Sequence[Entry]]) -> Iterator[list[Row]]:
    """Single conversations of one kind, without end."""
    return (rows for rows in writer.groups({kind: 1}, entries, 1) if rows)


def _some(groups: Iterator[list[Row]], count: int) -> list[Row]:
    found: list[Row] = []
    for group in groups:
        found += group
        if len(found) >= count:
            return found[:count]
    return found


def main() -> None:
    """Write the sets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=64, help="conversations in each file of a danger")
    parser.add_argument("--bfcl", type=Path, help="BFCL's data; without it no tuning.jsonl is written")
    parser.add_argument("--seed", type=int, default=0, help="of the tuning's conversations")
    chosen = parser.parse_args()
    for path in write_sets(chosen.out, chosen.count):
        print(path)
    if chosen.bfcl:
        write_rows(chosen.out / "tuning.jsonl", tuning_rows(chosen.bfcl, chosen.seed))
        print(chosen.out / "tuning.jsonl")


if __name__ == "__main__":
    main()
