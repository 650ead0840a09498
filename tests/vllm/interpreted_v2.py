"""Requests through vLLM's runner V2. It wants Triton, whose kernels are interpreted, so that it runs on any machine.

`TRITON_INTERPRET=1 VLLM_USE_V2_MODEL_RUNNER=1 python -m tests.vllm.interpreted_v2 FOLDER` prints, as JSON, the runner
that the record names, and the tokens and the number of edits of each reply.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Final

from steerkit.audit import read_turn
from tests.vllm.conftest import runtime
from tests.vllm.test_tokens import REQUESTS

SOME: Final = REQUESTS[:16]


def main(folder: Path) -> None:
    """Generate and print."""
    from triton.backends import backends

    driver = type("Driver", (), {"is_active": staticmethod(lambda: True)})
    backends["cpu"] = SimpleNamespace(driver=driver)  # vLLM asks whether there is one, which nothing compiles for
    with runtime(folder, block_size=16, num_gpu_blocks_override=80, max_num_batched_tokens=128) as found:
        turns = found.run_batch(SOME, batch_size=len(SOME))
        assert found.store is not None
        machine = read_turn(found.store, found.store.get(str(turns[0].record_id))).record.machine
    assert machine is not None
    said = [[list(turn.reply_ids), len(turn.trace.edits)] for turn in turns]
    sys.stdout.write(json.dumps([machine["runner"], said]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
