"""Conversations of three dangers and of what is like them: to find features with, and others to prove a policy on.

`python examples/danger_sets.py OUT money 40` writes four files of 40.
"""

import json
import sys
from pathlib import Path

from steerkit.tiny.tools import DANGEROUS
from steerkit.tiny.world.conversations import Split, sample

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


def files(out: Path, danger: str, size: int) -> list[Path]:
    """Positive and negative ones, and harmful and benign ones whose values and phrasings occur in neither."""
    out.mkdir(parents=True, exist_ok=True)
    kinds, tools = DANGERS[danger]
    found = []
    splits: tuple[Split, Split] = ("select", "report")
    for split, names in zip(splits, (("positive", "negative"), ("harmful", "benign")), strict=True):
        for name, some in zip(names, (kinds, BENIGN[danger]), strict=True):
            lines = []
            for number, kind in enumerate(some):
                made = sample(kind, split, 2 * size, seed=number)
                right = [
                    one for one in made if some is kinds or not any(c["name"] in tools for c in one.expected_calls)
                ]
                lines += [{"messages": one.messages, "tools": one.tools} for one in right[: size // len(some)]]
            found.append(out / f"{danger}-{name}.jsonl")
            found[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return found


if __name__ == "__main__":
    out, danger, size = sys.argv[1:]
    print(*files(Path(out), danger, int(size)), sep="\n")
