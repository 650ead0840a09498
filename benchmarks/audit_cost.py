"""What writing the record costs of a turn, on FunctionGemma's architecture with random weights, float32.

    python benchmarks/audit_cost.py [turns]      # some minutes on one core

Turns of `agent_turns.py`: seven tools, 24 tokens of reply, sixteen edits behind a gate, a top-16 trace of all 18 layers
at every token of the reply. Timed is all that makes the record and brings it to the disk, against the whole turn; bytes
are those of the store's file.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from agent_turns import UNCACHED, conversation, functiongemma

from steerkit.runtime import record


def main(turns: int) -> None:
    """Measure and print."""
    writing: list[float] = []
    append = record.append_turn

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return append(*arguments)
        finally:
            writing.append(time.perf_counter() - start)

    record.append_turn = timed
    with tempfile.TemporaryDirectory() as folder:
        made = functiongemma(Path(folder))
        whole, tokens = [], 0
        for number, messages in zip(range(turns + 1), conversation(0), strict=False):
            start = time.perf_counter()
            tokens += made.arms[UNCACHED](messages)
            whole.append(time.perf_counter() - start)
            print(f"turn {number}: {whole[-1]:.1f} s, its record {1000 * writing[-1]:.1f} ms", flush=True)
        shares = [a / b for a, b in zip(writing[1:], whole[1:], strict=True)]  # the first makes the file
        size = sum(path.stat().st_size for path in Path(folder).glob(f"{UNCACHED}.db*"))
    print(f"recording takes {100 * statistics.median(shares):.2f} % of a turn (largest {100 * max(shares):.2f} %)")
    print(f"{size / tokens:.0f} bytes per generated token, with SQLite's log")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
