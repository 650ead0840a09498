"""Labels the features that the shipped policies use, by the tokens at which they are most active.

    python benchmarks/label_features.py            # writes labels.json beside the box's SAEs

A label says where a feature fires, not what it means: the three tokens with the highest mean activation over 400
conversations of the select split, among tokens seen at least five times, and the share of tokens at which it fires.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
from box import turns
from torch import Tensor

import steerkit
from steerkit.engine import box_folder
from steerkit.policy import load
from steerkit.sae import write_labels
from steerkit.sites import Feature
from steerkit.steer import attach, compile_plan
from steerkit.tiny.demo_requests import policy_files
from steerkit.tiny.world.conversations import sample

KINDS = ("dangerous", "benign_near", "no_tool_fits", "single")
EACH = 100


def used_features() -> list[Feature]:
    """Every feature that a shipped policy names."""
    return sorted({feature.site for path in policy_files() for feature in load(path).features.values()})


def main() -> None:
    """Read the conversations once, and write the labels."""
    runtime = steerkit.load("tiny", audit=False)
    assert runtime.saes is not None
    features, total = used_features(), 0
    sums: dict[int, Tensor] = defaultdict(lambda: torch.zeros(len(features)))
    counts: dict[int, int] = defaultdict(int)
    fired = torch.zeros(len(features))
    examples = [one for kind in KINDS for one in sample(kind, "select", EACH, 11)]
    for turn in turns(runtime, examples):
        ids = [*turn.prompt_ids, *turn.reply_ids]
        with (
            torch.no_grad(),
            attach(runtime.loaded.model, compile_plan([], None), trace=list(runtime.saes)) as attached,
        ):
            recorder = attached.recorder
            runtime.loaded.model(input_ids=torch.tensor([ids]))
        encoded = {site: sae.encode(recorder.raw(site)[0]) for site, sae in runtime.saes.items()}
        values = torch.stack([encoded[feature.site][:, feature.index] for feature in features], dim=1)
        fired += (values > 0).sum(dim=0)
        total += len(ids)
        for token, row in zip(ids, values, strict=True):
            sums[token] += row
            counts[token] += 1
    common = [token for token, count in counts.items() if count >= 5]
    means = torch.stack([sums[token] / counts[token] for token in common])
    labels: dict[Feature, str] = {}
    for number, feature in enumerate(features):
        best = means[:, number].topk(3).indices.tolist()
        words = ", ".join(repr(runtime.loaded.tokenizer.decode([common[place]])) for place in best)
        share = 100 * float(fired[number]) / total
        labels[feature] = f"most active at {words}; fires at {share:.1f} % of tokens"
    folder = box_folder("tiny")
    assert folder is not None
    path = Path(folder) / "saes" / "labels.json"
    write_labels(path, labels)
    print(f"{len(features)} labels in {path}")


if __name__ == "__main__":
    main()
