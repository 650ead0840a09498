"""A folder with BFCL's files, as small as the builder can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def function(name: str, **types: str) -> dict[str, Any]:
    """A function as BFCL declares it."""
    properties = {key: {"type": kind, "description": f"The {key}."} for key, kind in types.items()}
    parameters = {"type": "dict", "properties": properties, "required": list(types)}
    return {"name": name, "description": f"Does {name}.", "parameters": parameters}


def write_bfcl(folder: Path) -> Path:
    """Write one test of each kind that the builder reads; `area_of_square` is tested and must not be trained on."""
    rows: dict[str, list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]] = {
        "simple_python": [
            (
                "Area of a square of 5?",
                [function("area_of_square", side="integer")],
                [{"area_of_square": {"side": [5]}}],
            )
        ],
        "irrelevance": [("Who are you?", [function("never_fits", side="integer")], [])],
        "live_simple": [
            (f"Weather in {city}?", [function("weather_now", city="string")], [{"weather_now": {"city": [city]}}])
            for city in ("Rome", "Paris", "Cologne")
        ]
        + [("A square of 7?", [function("area_of_square", side="integer")], [{"area_of_square": {"side": [7]}}])],
        "live_multiple": [
            (
                "Sleep for 2.0 hours",
                [
                    function("sleep", hours="float"),
                    function("wake", at="string"),
                    function("area_of_square", s="integer"),
                ],
                [{"sleep": {"hours": [2.0]}}],
            )
        ],
        "live_irrelevance": [
            (asked, [function("wake", at="string")], [])
            for asked in ("Hi!", "Who are you?")  # a held-out question
        ],
    }
    for name, tests in rows.items():
        _write(folder / f"BFCL_v4_{name}.json", [
            {"id": f"{name}_{n}", "question": [[{"role": "user", "content": asked}]], "function": functions}
            for n, (asked, functions, _) in enumerate(tests)
        ])  # fmt: skip
        truths = [{"id": f"{name}_{n}", "ground_truth": truth} for n, (_, _, truth) in enumerate(tests)]
        _write(folder / "possible_answer" / f"BFCL_v4_{name}.json", truths)
    for kind in ("simple", "multiple", "parallel", "parallel_multiple"):
        name = f"BFCL_v4_exec_{kind}.json"
        asked = [{"role": "user", "content": "What is 3.0 plus 4?"}]
        row = {"id": f"exec_{kind}_0", "question": [asked], "function": [function("add", a="float", b="integer")]}
        _write(folder / "unused_datasets" / "question" / name, [row])
        truth = {"id": f"exec_{kind}_0", "ground_truth": ["add(a=3.0, b=4)"]}
        _write(folder / "unused_datasets" / "possible_answer" / name, [truth])
    return folder


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
