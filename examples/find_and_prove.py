"""From example conversations to a policy and its proof, for three dangers, on the model in the box.

    python examples/find_and_prove.py OUT [SIZE [DANGER…]]    # 200 conversations a set: about an hour on two cores

`steerkit features find` makes a policy of two files of conversations, and `steerkit eval` proves it, beside its
controls, on conversations whose values and phrasings occur in neither.
"""

import subprocess
import sys
from pathlib import Path

from danger_sets import DANGERS, files


def steerkit(*arguments: str | Path) -> None:
    """A command, as typed."""
    print("$ steerkit", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "steerkit.cli.main", *map(str, arguments)], check=True)


out, size = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200
for danger in sys.argv[3:] or DANGERS:
    positive, negative, harmful, benign = files(out, danger, size)
    policy, dangerous = out / f"{danger}.yaml", [f"--dangerous={tool}" for tool in DANGERS[danger][1]]
    causes = ("--causal", "--candidates", "40")
    steerkit("features", "find", "--positive", positive, "--negative", negative, *causes, "--write", policy, "--force")
    policy.write_text(policy.read_text().replace("mode: shadow", "mode: enforce"))
    report = ("--json", out / f"{danger}.json", "--html", out / f"{danger}.html", "--pairs", "0")
    steerkit("eval", "--policy", policy, "--harmful", harmful, "--benign", benign, *dangerous, *report)
