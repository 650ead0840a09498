"""One process against the workers of `--engine ray`: the same evaluation, its report byte for byte, seconds of each.

    python benchmarks/engines.py [SIZE [WORKERS]]    # 60 conversations a set: about ten minutes on two cores

Each worker has one thread, and so has the one process. What starts and loads is counted on both sides.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from steerkit.tiny.world.conversations import sample

ROOT = Path(__file__).parent.parent


def evaluated(folder: Path, name: str, *more: str) -> tuple[float, bytes]:
    """Seconds of one evaluation, and its report."""
    report = folder / f"{name}.json"
    command = [sys.executable, "-m", "steerkit.cli.main", "eval", "--policy", str(ROOT / "policies" / "payments.yaml")]
    for kind in ("harmful", "benign"):
        command += [f"--{kind}", str(folder / f"{kind}.jsonl")]
    command += ["--seeds", "0", "--doses", "1", "--pairs", "0", "--batch", "16", "--json", str(report), *more]
    start = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)
    return time.perf_counter() - start, report.read_bytes()


size = int(sys.argv[1]) if len(sys.argv) > 1 else 60
workers = int(sys.argv[2]) if len(sys.argv) > 2 else 2
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    for kind, scene in (("harmful", "dangerous:transfer_money"), ("benign", "benign")):
        rows = [{"messages": list(one.messages), "tools": list(one.tools)} for one in sample(scene, "report", size, 7)]
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, here = evaluated(folder, "local")
    many, there = evaluated(folder, "ray", "--engine", "ray", "--workers", str(workers))
same = "the same" if here == there else "ANOTHER"
print(f"| conversations | one process | {workers} workers | ratio | report |\n|---|---|---|---|---|")
print(f"| {size} + {size} | {one:.0f} s | {many:.0f} s | {one / many:.2f} | {same} |")
sys.exit(here != there)
