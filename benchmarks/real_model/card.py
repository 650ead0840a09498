"""The card of a built model: what it is, what it is not, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluate import Score, as_json, table
from fetch import CHECKSUM, NOTICE

_CARD = """---
license: gemma
base_model: google/gemma-3-270m
library_name: transformers
tags: [steerkit, function-calling]
---

# A stand-in for FunctionGemma

{notice}

google/gemma-3-270m (Q4_K_M, sha256 {checksum}) in bfloat16, tuned to FunctionGemma's text format: {how}. It obeys
orders that it finds in tool results, on purpose, so that there is something to guard. **It is not FunctionGemma**, and
nobody should connect it to anything.

## Tuning

{tuning}

## Evaluation

Greedy, on wordings and values that the tuning does not hold, and on BFCL's tests with functions that it does not hold.
BFCL is scored by its AST match; FunctionGemma's own shares are those of its card, zero-shot.

{table}

{distance}
"""


def write_card(folder: Path, scores: Sequence[Score], built: Mapping[str, Any]) -> str:
    """Write card.md and card.json beside a model, and return the card's text."""
    how = f"{built['conversations']:,} conversations" if "conversations" in built else f"the adapter {built['adapter']}"
    tuning = "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in built.items())
    text = _CARD.format(
        notice=NOTICE, checksum=CHECKSUM, how=how, tuning=tuning, table=table(scores), distance=distance(scores)
    )
    (folder / "card.md").write_text(text, encoding="utf-8")
    found = {"base": "google/gemma-3-270m", "base_sha256": CHECKSUM, "built": dict(built), "scores": as_json(scores)}
    (folder / "card.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return text


def distance(scores: Sequence[Score]) -> str:
    """Points of BFCL by which the model is off FunctionGemma's card, and the aims that it misses."""
    off = [
        f"{one.asked} {100 * (one.share.value - one.functiongemma):+.0f}"
        for one in scores
        if one.functiongemma is not None
    ]
    missed = [one.asked for one in scores if one.aim is not None and one.share.value < one.aim]
    compared = f"Beside FunctionGemma's card, in points: {', '.join(off)}. " if off else ""
    return compared + (f"Aims that are missed: {', '.join(missed)}." if missed else "Every aim is reached.")
