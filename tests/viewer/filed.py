"""Reports as commands write them, with one text wherever somebody else may choose it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from steerkit.lab import Measured, Share
from steerkit.lab.find import Causes, Context, DecoderTokens, FeatureContexts, Found, FoundProbe, SteeringEdits
from steerkit.lab.find.causal import Cause
from steerkit.lab.find.probes import Probes
from steerkit.lab.find.search import FoundFeature
from steerkit.lab.find.steering_edits import Controls, Lead
from steerkit.lab.find.top_logits import TokenScore
from steerkit.lab.two_sample import Interval
from steerkit.report import FeatureView, Source, evaluation_json, feature_json, found_json, json_text
from steerkit.sites import Feature, Site
from tests.cli.test_eval import foreign_evaluation

FEATURE = Feature(Site(2, "resid_post"), 7)
SHARE = Share(3, 4)
MEASURED = Measured(0.9, Interval(0.7, 1.0), 0.5, SHARE, Share(0, 4))


def found_report(text: str) -> dict[str, object]:
    """A search with all its parts."""
    probe = FoundProbe({FEATURE: 2.0, Feature(3, 72): -1.0}, -0.5, MEASURED, 0.1, 0.01, torch.zeros(4))
    raw = replace(probe, weights={}, vectors={FEATURE.site: torch.ones(3)})
    rows = (
        FoundFeature(FEATURE, text, True, 0.001, MEASURED, -1.5, (SHARE, SHARE), (Feature(3, 1),)),
        FoundFeature(Feature(3, 72), text, False, 0.002, MEASURED, 1.5, (SHARE, SHARE), ()),
    )
    found = Found(text, (5, 6), (7, 8), 100, 20, 0.001, 0.01, rows, probe, raw)
    tried = Causes(2.5, 7, (Cause(FEATURE, text, False, 0.4, 0.5, 0.6, 0.1, 0.001, 0.001),), 0.9, float("nan"))
    controls = Controls(Share(1, 12), Share(0, 4), Share(0, 4), Share(2, 4))
    parts = (2.5, -1.0, 2.4, SHARE, Share(1, 12), SHARE, SHARE, SHARE, controls, 0.001, 0.001, torch.ones(8))
    vectors = {FEATURE.site: torch.ones(3)}
    beaten = SteeringEdits("difference of means", 1.0, {}, vectors, False, None, *parts, Lead(1, 0, 0.5))  # type: ignore[arg-type]
    edits = {FEATURE: {"clamp": 0.5}}
    steering = SteeringEdits("clamps of one layer", 2.0, edits, {}, True, Probes(probe, raw), *parts, None, (beaten,))  # type: ignore[arg-type]
    return found_json(found, tried, steering, Source(text, text, (text, text), 1, (text,)))


def feature_report(text: str) -> dict[str, object]:
    """A feature with contexts and tokens."""
    contexts = FeatureContexts(FEATURE, 30, 3, {}, (Context(0, 1, 2.0, 0, ("a", text, ""), (0.5, 2.0, 0.0)),))
    tokens = DecoderTokens((TokenScore(text, 1, 2.0),), (TokenScore(text, 2, -1.0),))
    view = FeatureView(text, text, text, "relu", text, contexts, tokens, {"density": 0.1, "max": 2.0}, text)
    return feature_json(view)


def replay_report(text: str, record: str, how: str = "again") -> dict[str, object]:
    """A replay of a record, with alternatives at two tokens."""
    made = {
        "text": text,
        "calls": [{"name": text, "arguments": {text: text}}, {"malformed": text, "raw": text}],
        "verdicts": [{"decision": "deny", "rule": text, "policy": text}] * 2,
        "finish": text,
        "reply_ids": [3, 5],
        "policies": [{"name": text}],
        "layers": {"attn_out.0": 1.0, text: 2.0},
    }
    chances = ((text, 3, 0.75), (" b", 4, 0.25), ("c", 5, 0.0))
    steps = [[{"token": token, "id": id, "probability": chance} for token, id, chance in chances]] * 2
    same = {"same": False} if how == "again" else {}
    return {"report": "replay", "record": record, "how": how, "made": made, "alternatives": steps, **same}


def write_reports(folder: Path, text: str, record: str = "") -> None:
    """A report of each kind, a replay of a record among them, and files that are none."""
    folder.mkdir()
    reports = {
        "replay.json": replay_report(text, record),
        "eval.json": evaluation_json(foreign_evaluation(text)),
        "find.json": found_report(text),
        "feature.json": feature_report(text),
        "other.json": {"report": text},
    }
    for name, content in reports.items():
        (folder / name).write_text(json_text(content), encoding="utf-8")
    (folder / "broken.json").write_text("{", encoding="utf-8")
    (folder / "notes.txt").write_text("{}", encoding="utf-8")
