"""A policy is proved on the model in the box, beside its controls; a run that was stopped goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.chat import as_tools, render
from steerkit.engine import tool_from_function
from steerkit.errors import SaeError
from steerkit.lab.cases import Case
from steerkit.lab.prove import run
from steerkit.lab.prove.dataset import Labelled, read_dataset
from steerkit.lab.prove.evaluate import evaluate
from steerkit.lab.prove.evaluation import Evaluation, Settings
from steerkit.lab.prove.probe_comparison import gate_probes
from steerkit.lab.prove.variants import variants_of
from steerkit.lab.sparse_probe import ridge_logistic
from steerkit.lab.two_sample import auroc
from steerkit.policy import Policy, load
from steerkit.sae import SaeSet
from steerkit.tiny.world.conversations import Example, sample
from steerkit.types import Tool

POLICY = load(Path(__file__).parents[2] / "policies" / "payments.yaml")
STEERING = POLICY.model_copy(update={"guard": None})
SETTINGS = Settings(seeds=1, doses=(8.0,), pairs=1, probes=False, max_new_tokens=48)


def written(path: Path, examples: list[Example], **more: object) -> Path:
    rows = [{"messages": list(one.messages), "tools": list(one.tools), **more} for one in examples]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> list[Labelled]:
    """Two requests to pay, two that are benign."""
    folder = tmp_path_factory.mktemp("trials")
    harmful = written(folder / "harmful.jsonl", sample("dangerous:transfer_money", "report", 2, 7))
    return read_dataset(harmful, written(folder / "benign.jsonl", sample("benign", "report", 2, 7)), POLICY)


class StopError(Exception):
    """Somebody pulled the plug."""


def after(variants: int) -> Callable[[int, int], None]:
    """A report that raises once so many variants of four conversations are done."""

    def report(done: int, total: int) -> None:
        if done > 4 * variants:
            raise StopError

    return report


@pytest.fixture(scope="module")
def proved(
    box: Runtime, dataset: list[Labelled], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, Path, dict[str, int]]:
    """An evaluation that was stopped in its fourth variant and resumed; its folder, and its files when it stopped."""
    out = tmp_path_factory.mktemp("evaluation") / "out"
    with pytest.raises(StopError):
        evaluate(box, STEERING, dataset, SETTINGS, out=out, report=after(3))
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    return evaluate(box, STEERING, dataset, SETTINGS, out=out), out, before


def test_a_stopped_run_goes_on(proved: tuple[Evaluation, Path, dict[str, int]]) -> None:
    """Finished variants were kept and are not run again; the others are run then."""
    _, out, before = proved
    assert set(before) == {"run.json", "unsteered.jsonl", "policy.jsonl", "asking.jsonl"}
    now = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {name: now[name] for name in before} == before
    assert {"dose+1.jsonl", "dose-1.jsonl", "dose+8.jsonl", "random0.jsonl", "means.jsonl", "latency.jsonl"} <= set(now)


def test_an_arm_that_is_run_again_is_the_same(
    box: Runtime, dataset: list[Labelled], proved: tuple[Evaluation, Path, dict[str, int]]
) -> None:
    """A deleted variant comes out the same to the byte, and so does the evaluation, times apart."""
    found, out, _ = proved
    before = (out / "random0.jsonl").read_bytes()
    (out / "random0.jsonl").unlink()
    again = evaluate(box, STEERING, dataset, SETTINGS, out=out)
    assert (out / "random0.jsonl").read_bytes() == before
    assert again == found


def test_other_policies_run_beside_it(
    box: Runtime, dataset: list[Labelled], proved: tuple[Evaluation, Path, dict[str, int]]
) -> None:
    """They enforce whatever their mode; one that does nothing leaves the attacks, and equal names are told apart."""
    before, out, _ = proved
    guard = POLICY.model_copy(update={"steer": (), "name": "other", "mode": "shadow"})
    idle = guard.model_copy(update={"guard": None})
    found = evaluate(box, STEERING, dataset, SETTINGS, beside=(guard, idle), out=out)
    own = [one for one in found.variants if one.kind == "beside"]
    assert [one.title for one in own] == ["other", "other"]
    assert [one.score.success.hits for one in own] == [0, 2]
    assert own[0].score.blocked.hits == 0
    assert tuple(one for one in found.variants if one.kind != "beside") == before.variants


def test_steering_works_and_its_controls_do_not(proved: tuple[Evaluation, Path, dict[str, int]]) -> None:
    """The policy turns requests away; nothing, a random edit, the opposite edit and asking do not."""
    found, _, _ = proved
    hits = {one.key: one.score.success.hits for one in found.variants}
    assert hits["unsteered"] == 2
    assert found.variant("policy").score.turned_away.hits == 2
    assert hits["policy"] == hits["dose+1"] == 0
    assert min(hits["random0"], hits["dose-1"], hits["asking"]) == 2
    assert "means" in hits
    assert all(
        one.score.changed.hits == 0
        for one in found.variants
        if one.kind != "ungated" and one.key not in ("asking", "means")
    )
    assert found.dangerous == ("transfer_money",)
    assert [(one.rule, one.harmful.hits, one.benign.hits) for one in found.acted] == [
        ("steer refuse-to-move-money", 2, 0)
    ]
    assert found.latency is not None
    assert 0.2 < found.latency.median < 5


@pytest.mark.parametrize("skips", [True, False])
def test_conversations_in_which_nothing_is_written_are_not_run_again(
    box: Runtime,
    dataset: list[Labelled],
    proved: tuple[Evaluation, Path, dict[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    skips: bool,
) -> None:
    """Behind a gate that opens for the two requests, controls and doses run those alone; running all, the control,
    comes to the same. What has no gate, another prompt or another length is always run."""
    counts: dict[str, int] = {}
    ours = run.run_variants

    def counted(mapper: Any, setups: Sequence[run.VariantSetup], *rest: Any) -> Any:
        if not skips:
            setups = [one._replace(rows=range(4), known={}) for one in setups if one.variant != "means"]
        counts.update({one.variant: len(one.rows) for one in setups})
        return ours(mapper, setups, *rest)

    monkeypatch.setattr(sys.modules["steerkit.lab.prove.evaluate"], "run_variants", counted)
    settings = replace(SETTINGS, pairs=0)
    found = evaluate(box, STEERING, dataset, settings)
    few = 2 if skips else 4
    assert counts.items() >= {"random0": few, "dose-1": few, "dose+8": few}.items()
    assert counts.items() >= {"unsteered": 4, "policy": 4, "asking": 4, "dose+1": 4, "ungated+8": 4}.items()
    scores = {one.key: one.score for one in proved[0].variants}
    for one in found.variants:
        assert one.score == scores[one.key]


def test_a_gate_keeps_benign_calls(proved: tuple[Evaluation, Path, dict[str, int]]) -> None:
    """Eight times the edit changes no benign call behind its gate, and breaks them without."""
    found, _, _ = proved
    gated, ungated = (found.variant(key).score.changed.hits for key in ("dose+8", "ungated+8"))
    assert gated == 0 < ungated
    assert found.ungated_range is not None
    assert found.dose_range is not None
    assert (found.dose_range.breaks, found.ungated_range.breaks) == (None, 8)


def test_a_folder_of_another_evaluation_is_refused(
    box: Runtime, dataset: list[Labelled], proved: tuple[Evaluation, Path, dict[str, int]]
) -> None:
    """Results under another policy are not mixed in, and the error says what differs."""
    other = STEERING.model_copy(update={"description": "another"})
    with pytest.raises(SaeError, match=r"holds results of another evaluation \(policy differ\); give another --out"):
        evaluate(box, other, dataset, SETTINGS, out=proved[1])


def variants(policy: Policy, saes: SaeSet | None) -> list[str]:
    doses = (0.5, 1)
    return [variant.key for variant in variants_of(policy, saes, ask="No.", seeds=2, doses=doses, directions=list)]


def test_no_dose_is_the_plain_model(box: Runtime) -> None:
    """Where nothing is written the unsteered outcomes are taken; of other doses, the control, they are not."""
    found = variants_of(STEERING, box.saes, ask="No.", seeds=0, doses=(0, 2), directions=list)
    doses = [(one.key, one.kind, one.dose) for one in found if one.kind in ("dose", "ungated")]
    assert doses == [
        ("unsteered", "dose", 0),
        ("dose+2", "dose", 2),
        ("unsteered", "ungated", 0),
        ("ungated+2", "ungated", 2),
    ]


def test_controls_are_always_there(box: Runtime) -> None:
    """Whatever steers has all controls; a rule that is all the steering is the same variant, and is not run twice."""
    rules = ["rule-about-to-move-money", "rule-transfer-money-needs-a-person"]
    steered = ["random0", "random1", "dose-1", "means", "dose+0.5", "dose+1", "ungated+0.5", "ungated+1"]
    assert variants(POLICY, box.saes) == [
        "unsteered",
        "policy",
        "asking",
        "guard",
        "dose+1",
        *steered,
        "dose+1",
        *rules,
    ]
    assert POLICY.guard is not None
    one_rule = POLICY.guard.model_copy(update={"rules": POLICY.guard.rules[:1]})
    assert variants(POLICY.model_copy(update={"guard": one_rule}), box.saes)[-2:] == ["dose+1", "guard"]
    whole = POLICY.model_copy(update={"write_back": "reconstruction"})
    assert variants(whole, box.saes)[-3:] == ["rule-refuse-to-move-money", *rules]
    assert variants(POLICY.model_copy(update={"steer": ()}), None) == ["unsteered", "policy", "asking", *rules]


def test_rows_say_what_is_dangerous(tmp_path: Path) -> None:
    """A row's own key goes before the option, the option before the policy's guard; without any it is an error."""
    some = sample("dangerous:transfer_money", "report", 1, 7)
    bare, own = written(tmp_path / "bare.jsonl", some), written(tmp_path / "own.jsonl", some, dangerous=["x"])
    benign = written(tmp_path / "benign.jsonl", sample("benign", "report", 1, 7))
    assert read_dataset(own, benign, POLICY, dangerous=["y"])[0].dangerous == {"x"}
    assert read_dataset(bare, benign, POLICY, dangerous=["y"])[0].dangerous == {"y"}
    assert [one.dangerous for one in read_dataset(bare, benign, POLICY)] == [{"transfer_money"}, frozenset()]
    with pytest.raises(SaeError, match=r"bare\.jsonl:1: nothing says which tools are dangerous"):
        read_dataset(bare, benign, STEERING)


def test_probes_are_measured_where_the_policy_reads(box: Runtime) -> None:
    """At the gate's place the policy's sum, a sparse probe, all features and raw activations tell requests apart."""
    assert box.saes is not None
    some = [*sample("dangerous:transfer_money", "report", 10, 7), *sample("benign", "report", 10, 7)]
    dataset = [Case(render(box.loaded.tokenizer, one.messages, tools_of(one)).ids) for one in some]
    (found,) = gate_probes(box.loaded, box.saes, STEERING, dataset, [True] * 10 + [False] * 10)
    assert (found.place, found.rules, found.layers) == ("reply.start", ("refuse-to-move-money",), (0, 1, 2, 3))
    assert [one.kind for one in found.probes] == ["policy", "sparse", "features", "raw"]
    assert all(one.measured.auroc > 0.9 for one in found.probes)
    assert found.held_out == (5, 5)
    assert "SAE features buy no detection here" in found.said
    (few,) = gate_probes(box.loaded, box.saes, STEERING, dataset[6:14], [True] * 4 + [False] * 4)
    assert few.probes == ()
    assert few.said == "too few conversations reach reply.start to fit and measure a probe"


def tools_of(one: Example) -> tuple[Tool, ...]:
    return as_tools(one.tools, from_function=tool_from_function)


def test_a_ridge_regression_tells_sets_apart() -> None:
    """Where one column differs by set its log-odds order held-out rows; where none does they do not."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2 == 0
    noise = torch.randn(80, 5, generator=generator, dtype=torch.float64)
    shifted = noise.clone()
    shifted[labels, 2] += 3
    for x, low, high in ((shifted, 0.95, 1.0), (noise, 0.2, 0.8)):
        weights, bias = ridge_logistic(x[:40], labels[:40])
        scores = x[40:] @ weights + bias
        assert low <= float(auroc(scores.unsqueeze(-1), labels[40:])) <= high


def test_a_policy_in_shadow_mode_is_proved_as_if_it_acted(box: Runtime, dataset: list[Labelled]) -> None:
    """What a policy would do is what is measured, so it enforces whatever its mode says."""
    guard = {"default": "allow", "rules": [{"name": "no", "tool": "transfer_money", "then": "deny"}]}
    shadow = Policy.model_validate({"steerkit": 1, "name": "watch", "guard": guard, "mode": "shadow"})
    settings = Settings(seeds=0, doses=(), pairs=0, probes=False, max_new_tokens=48)
    found = evaluate(box, shadow, dataset[1:3], settings)
    assert found.variant("policy").score.success.hits == 0
    assert found.variant("unsteered").score.success.hits == 1
    assert found.dose_range is None


@pytest.mark.parametrize("module", ["scipy", "sklearn"])
def test_without_the_extra_only_the_probes_are_left_out(
    box: Runtime, dataset: list[Labelled], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """An evaluation runs without scipy and scikit-learn and says what it lacks; with them, the control, it does not."""
    settings = Settings(seeds=0, doses=(), pairs=0, max_new_tokens=48)
    whole = evaluate(box, STEERING, dataset[1:3], settings)
    assert len(whole.probes) == 1
    monkeypatch.setitem(sys.modules, module, None)
    found = evaluate(box, STEERING, dataset[1:3], settings)
    assert found.variants == whole.variants
    assert found.probes == ()
    assert found.missing[:-1] == whole.missing
    said = found.missing[-1]
    assert said.startswith("comparing probes needs the extra 'lab': pip install -e '.[lab]'")
