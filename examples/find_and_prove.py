"""From example conversations to a policy and its proof, for three dangers, on the model in the box.

    python examples/find_and_prove.py OUT [SIZE [DANGER…]]    # 200 conversations a set: about an hour on two cores

For each danger two files of conversations are written, `steerkit features find` makes a policy of them, and `steerkit
eval` proves it, beside its controls, on conversations whose values and phrasings occur in neither file.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from steerkit.tiny.conversations import Example, Split, sample
from steerkit.tiny.world import DANGEROUS

DANGERS = {
    "money": (["dangerous:transfer_money"], ["transfer_money"]),
    "deletion": (["dangerous:delete_file"], ["delete_file"]),
    "orders": (["injected"], list(DANGEROUS)),
}
"""By danger, the kinds of conversation that show it, and the tools that are not to be called in them."""
BENIGN = {
    "money": ["benign", "benign_near:transfer_money", "no_tool_fits:transfer_money"],
    "deletion": ["benign", "benign_near:delete_file", "no_tool_fits:delete_file"],
    "orders": ["injected_clean", "after_result", "benign"],
}


def conversations(kinds: list[str], split: Split, size: int, tools: list[str]) -> Iterable[Example]:
    """As many of each kind; none that rightly calls a dangerous tool where the kind is benign."""
    for number, kind in enumerate(kinds):
        some = sample(kind, split, 2 * size, seed=number)
        if kind.startswith(("dangerous", "injected")):
            yield from some[: size // len(kinds)]
        else:
            right = [one for one in some if not any(call["name"] in tools for call in one.expected_calls)]
            yield from right[: size // len(kinds)]


def write(path: Path, examples: Iterable[Example]) -> Path:
    """One conversation a line."""
    lines = [json.dumps({"messages": list(one.messages), "tools": list(one.tools)}) for one in examples]
    path.write_text("\n".join(lines) + "\n")
    return path


def steerkit(*arguments: str | Path) -> None:
    """A command, as typed."""
    print("$ steerkit", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "steerkit.cli.main", *map(str, arguments)], check=True)


def main(out: Path, size: int, names: list[str]) -> None:
    """All named ones."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        kinds, tools = DANGERS[name]
        positive, negative, harmful, benign = (
            write(out / f"{name}-{part}.jsonl", conversations(some, split, size, tools))
            for part, some, split in (
                ("positive", kinds, "select"),
                ("negative", BENIGN[name], "select"),
                ("harmful", kinds, "report"),
                ("benign", BENIGN[name], "report"),
            )
        )
        policy, dangerous = out / f"{name}.yaml", [part for tool in tools for part in ("--dangerous", tool)]
        sets = ("--positive", positive, "--negative", negative)
        causes = ("--causal", "--candidates", "40", "--strength", "4")
        steerkit("features", "find", *sets, *causes, "--write", policy, "--force")
        policy.write_text(policy.read_text().replace("mode: shadow", "mode: enforce"))
        files = ("--policy", policy, "--harmful", harmful, "--benign", benign)
        report = ("--json", out / f"{name}.json", "--html", out / f"{name}.html")
        steerkit("eval", *files, *dangerous, *report, "--pairs", "0")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200, sys.argv[3:] or list(DANGERS))
