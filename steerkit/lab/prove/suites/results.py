"""Replies to a suite's tests in the files that BFCL's own scorer reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from steerkit.chat import Tokenizer, dialect_of, token_bytes
from steerkit.errors import SaeError
from steerkit.files import write_text_atomic
from steerkit.lab.prove.suites.cases import SuiteCase

BFCL_MODEL: Final = "google/functiongemma-270m-it-FC"
"""The name under which BFCL knows who reads FunctionGemma's calls, whatever model of that format wrote them."""


def write_results(
    folder: Path, cases: Sequence[SuiteCase], replies: Mapping[int, Sequence[int]], tokenizer: Tokenizer
) -> None:
    """Write the replies, control tokens kept: `google_functiongemma-270m-it-FC/BFCL_v4_CATEGORY_result.json` and so on.

    `bfcl evaluate --model google/functiongemma-270m-it-FC --result-dir FOLDER --partial-eval` scores them.

    Args:
        folder: made where it is not there.
        cases: the tests.
        replies: the tokens written, by number of the test; tests without one are left out.
        tokenizer: the model's.

    Raises:
        SaeError: it cannot be written.
    """
    stops, text = dialect_of(tokenizer).stops, token_bytes(tokenizer).text
    files: dict[str, list[str]] = {}
    for number, ids in replies.items():
        kept = ids[:-1] if ids and ids[-1] in stops else ids
        row = {"id": cases[number].id, "result": text(kept), "output_token_count": len(ids)}
        files.setdefault(cases[number].file, []).append(json.dumps(row, ensure_ascii=False) + "\n")
    inside = folder / BFCL_MODEL.replace("/", "_")
    try:
        inside.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaeError(f"{inside}: cannot be made ({error.strerror}); give another folder") from None
    for name, rows in files.items():
        write_text_atomic(inside / f"{name}_result.json", "".join(rows), SaeError)
