"""Count the files of steerkit that one turn of the model in the box enters, by room.

    python benchmarks/turn_files.py [--functions] [--bare]

The turn calls one tool under the shipped policies for the box, with an audit store in a temporary folder; `--bare` is
the same without policies and store. It is taken once before, so that nothing counts that happens once in a process.
`--functions` names the functions entered as well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import steerkit

ROOT = Path(steerkit.__file__).parent
POLICIES = [ROOT.parent / "policies" / f"{name}.yaml" for name in ("payments", "orders", "shell", "people")]
BALANCE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_balance",
        "description": "Balance of an account.",
        "parameters": {"type": "object", "properties": {"account": {"type": "string"}}, "required": ["account"]},
    },
}


def entered(*, bare: bool) -> dict[Path, set[str]]:
    """By file, the functions that a turn enters."""
    found: dict[Path, set[str]] = defaultdict(set)

    def profile(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            found[path.relative_to(ROOT)].add(frame.f_code.co_qualname)

    with tempfile.TemporaryDirectory() as folder:
        audit: Any = False if bare else Path(folder) / "audit.db"
        with steerkit.load("tiny", policy=() if bare else POLICIES, audit=audit) as runtime:
            for count in (False, True):
                sys.setprofile(profile if count else None)
                runtime.run([{"role": "user", "content": "tell me how much money travel 38 has"}], [BALANCE])
                sys.setprofile(None)
    return found


def main() -> None:
    """Print the files by room."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", action="store_true")
    parser.add_argument("--bare", action="store_true")
    wanted = parser.parse_args()
    found = entered(bare=wanted.bare)
    rooms: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(found):
        rooms[path.parts[0].removesuffix(".py")].append(path)
    for room, paths in rooms.items():
        print(f"{room:<10} {len(paths):>3}")
        for path in paths:
            print(f"    {path}" + (f": {', '.join(sorted(found[path]))}" if wanted.functions else ""))
    print(f"{'files':<10} {len(found):>3}")


if __name__ == "__main__":
    main()
