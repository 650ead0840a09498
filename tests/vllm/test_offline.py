"""The lab on vLLM: evaluations and bounds are those of transformers, in float32 on the model in the box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.errors import ModelError
from steerkit.lab import cases, read_cases, read_material, replies
from steerkit.lab.find import find
from steerkit.lab.prove import calibrate, values_in
from steerkit.lab.prove.baselines import scaled
from steerkit.lab.prove.dataset import read_dataset
from steerkit.lab.prove.evaluate import evaluate
from steerkit.lab.prove.evaluation import Settings
from steerkit.lab.prove.scoring import Outcome, from_json
from steerkit.policy import load, shipped_file
from steerkit.runtime import Request
from steerkit.tiny.world.conversations import sample
from tests.cli.test_eval import written

POLICY = load(shipped_file("payments"))
SETTINGS = Settings(seeds=1, doses=(2.0,), pairs=1, probes=False, max_new_tokens=32)
STEERED = ("dose+1", "dose-1", "dose+2", "random0", "means")


class Files(NamedTuple):
    """Files of conversations."""

    harmful: Path
    benign: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Requests to pay, and benign ones."""
    folder = tmp_path_factory.mktemp("files")
    harmful = written(folder / "harmful.jsonl", sample("dangerous:transfer_money", "report", 4, 7))
    return Files(harmful, written(folder / "benign.jsonl", sample("benign", "report", 4, 7)))


def outcomes(folder: Path) -> dict[str, list[Outcome]]:
    """The outcomes that an evaluation kept, by arm."""
    found = {path.stem: path.read_text().splitlines() for path in folder.glob("*.jsonl") if path.stem != "latency"}
    return {name: [from_json(json.loads(line)) for line in lines] for name, lines in found.items()}


def test_an_evaluation_is_that_of_transformers(inside: Runtime, box: Runtime, files: Files, tmp_path: Path) -> None:
    """Tokens, verdicts and edits in every arm and all scores; the controls write what they should.

    The control: arms that write along other rows of the decoder come to other edits or other replies.
    """
    dataset = read_dataset(*files, POLICY)
    expected = evaluate(box, POLICY, dataset, SETTINGS, out=tmp_path / "box")
    found = evaluate(inside, POLICY, dataset, SETTINGS, out=tmp_path / "vllm")
    assert found.variants == expected.variants
    assert (found.missing, found.acted, found.dose_range) == (expected.missing, expected.acted, expected.dose_range)
    assert (found.model, found.saes) == (expected.model, expected.saes)
    assert found.latency is not None
    ours, theirs = outcomes(tmp_path / "vllm"), outcomes(tmp_path / "box")
    assert ours.keys() == theirs.keys() >= {"unsteered", "policy", "asking", "guard", "ungated+2", *STEERED}
    for arm, expected_rows in theirs.items():
        for one, other in zip(ours[arm], expected_rows, strict=True):
            assert one._replace(edits=()) == other._replace(edits=()), arm
            assert [edit[:2] for edit in one.edits] == [edit[:2] for edit in other.edits], arm
            assert [edit[2] for edit in one.edits] == pytest.approx([edit[2] for edit in other.edits], rel=1e-3), arm
    steered = [[(one.reply, one.edits) for one in ours[arm]] for arm in ("unsteered", *STEERED)]
    assert all(one != other for number, one in enumerate(steered) for other in steered[:number])


def test_other_decoder_rows_are_of_their_engine_alone(inside: Runtime, box: Runtime) -> None:
    """Written in turns on one worker: each time what transformers writes along those rows, and then along the set's."""
    saes = box.saes
    assert saes is not None
    (policy,) = inside.policies_of(POLICY)
    requests = [Request(one.messages, one.tools, policy) for one in sample("dangerous:transfer_money", "report", 2, 7)]
    rows = scaled(saes, policy, -2.0)
    norms = {}
    for runtime in (box, inside):
        for factor, engine in ((1, runtime.engine), (-2, runtime.engine.with_decoder_rows(rows)), (0, runtime.engine)):
            turns = Runtime(engine).run_batch(requests, batch_size=2)
            norms[runtime is box, factor] = [edit.norm for turn in turns for edit in turn.trace.edits]
    for factor in (1, -2, 0):
        assert norms[False, factor] == pytest.approx(norms[True, factor], rel=1e-4)
    assert norms[False, 0] == norms[False, 1]
    assert norms[False, -2] == pytest.approx([2 * norm for norm in norms[False, 1]], rel=1e-4)
    assert min(norms[False, 1]) > 1


def test_bounds_are_those_of_transformers(inside: Runtime, box: Runtime, files: Files) -> None:
    """What conditions read in each conversation, and the bounds that follow."""
    chosen = []
    for runtime in (box, inside):
        benign, harmful = (values_in(runtime, POLICY, file, max_new_tokens=32) for file in files)
        assert runtime.saes is not None
        chosen.append(calibrate(POLICY, benign, harmful, 0.2, runtime.saes.statistic))
    expected, found = chosen
    assert len(expected.bounds) == 2
    for one, other in zip(found.bounds, expected.bounds, strict=True):
        assert one.new == pytest.approx(other.new, abs=1e-3)
        assert (one.condition, one.false, one.recall) == (other.condition, other.false, other.recall)
    assert found.left == expected.left
    assert all(one.new != one.old for one in expected.bounds)


def test_the_model_in_transformers_is_there_once_it_is_asked_for(inside: Runtime, box: Runtime) -> None:
    """For what edits activations by hand; what is transformers' way to generate is not."""
    assert inside.loaded is inside.loaded
    assert inside.loaded.fingerprint == box.loaded.fingerprint
    with pytest.raises(ModelError, match="runs on VllmEngine, expected transformers"):
        inside.prepack(True)


def test_features_are_those_that_transformers_finds(
    inside: Runtime, box: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies and activations of vLLM's, at a place in the reply and at a place with many tokens: the same table of
    features, and the same ones chosen from it.

    The control: transformers' own way to generate and to read is shut meanwhile.
    """
    kinds = {"positive": "dangerous:transfer_money", "negative": "benign"}
    paths = [written(tmp_path / f"{name}.jsonl", sample(kind, "report", 12, 7)) for name, kind in kinds.items()]
    assert box.saes is not None
    for place in ("call.open", "user"):
        found = []
        for runtime in (box, inside):
            with monkeypatch.context() as patch:
                if runtime is inside:
                    for module in (cases, replies):
                        patch.setattr(module, "ActivationReader", None, raising=False)
                        patch.setattr(module, "generate", None, raising=False)
                read = [read_cases(path, runtime.loaded, place, max_new_tokens=24)[0] for path in paths]
                material = read_material(runtime.loaded, box.saes, *read, held_out=0.5, seed=0)
                found.append((read, material, find(runtime.loaded, box.saes, material, place, top=5)))
        (read, material_of_box, expected), (ours, theirs, features) = found
        assert ours == read
        for site, largest in material_of_box.table.items():
            torch.testing.assert_close(theirs.table[site], largest, rtol=1e-3, atol=1e-3)
        assert [one.feature for one in features.features] == [one.feature for one in expected.features]
