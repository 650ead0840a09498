"""Directions made from conversations: the arithmetic, the file, and the command."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.chat import as_tools, render
from steerkit.cli.main import run
from steerkit.engine import LoadedModel, tool_from_function
from steerkit.errors import PolicyError, SaeError
from steerkit.lab import Case, difference_of_means, make_direction, read_cases, write_direction
from steerkit.lab.cases import sum_maxima
from steerkit.lab.policy_conditions import placed_readings, sum_of
from steerkit.lab.prove import baselines
from steerkit.lab.prove.probe_comparison import gate_probes
from steerkit.lab.train.health.reading_drift import reading_drifts
from steerkit.policy import Origin, Policy, loads, read_direction, watch_key
from steerkit.runtime import Request
from steerkit.sites import Site
from steerkit.steer import attach, compile_plan
from steerkit.tiny.world.conversations import sample
from tests.directions import adding, drawn, file_of

SITES = [Site(1), Site(2), Site(2, "resid_post")]
Command = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Requests for money, and others."""
    folder = tmp_path_factory.mktemp("sets")
    found = []
    for kind in ("dangerous:transfer_money", "benign"):
        path = folder / f"{kind.partition(':')[0]}.jsonl"
        rows = [{"messages": list(one.messages), "tools": list(one.tools)} for one in sample(kind, "report", 8)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found.append(path)
    return found[0], found[1]


def test_the_difference_is_that_of_the_means(box: Runtime, files: tuple[Path, Path]) -> None:
    """Against the activations of each prompt's last token, read one by one; a copy counts once."""
    sets = [read_cases(file, box.loaded, "reply.start")[0] for file in files]
    vectors, spread = difference_of_means(box.loaded, sets[0], sets[1], SITES)
    plan, means = compile_plan([], None), []
    for cases in sets:
        read = []
        for case in cases:
            with torch.inference_mode(), attach(box.loaded.model, plan, trace=SITES) as attached:
                box.loaded.model(input_ids=torch.tensor([case.prompt]))
            read.append({site: attached.recorder.raw(site)[0, -1].float() for site in SITES})
        means.append({site: torch.stack([one[site] for one in read]).mean(0) for site in SITES})
    for site in SITES:
        assert torch.allclose(vectors[site], means[1][site] - means[0][site], atol=1e-4)
        assert spread[site] > 0
    again, _ = difference_of_means(box.loaded, [*sets[0], sets[0][0]], sets[1], SITES)
    for site in SITES:
        assert torch.allclose(again[site], vectors[site], atol=1e-5)
    with pytest.raises(SaeError, match="from: got no conversation with a step at the place"):
        difference_of_means(box.loaded, [], sets[1], SITES)


def test_a_file_says_what_it_was_made_of(box: Runtime, files: tuple[Path, Path], tmp_path: Path) -> None:
    """Method, place, model and both sets, by fingerprint; what stands in it is what was made."""
    made = make_direction(box.loaded, *files, "reply.start", SITES)
    written = write_direction(tmp_path / "a.safetensors", made.vectors, made.origin)
    found = read_direction(tmp_path / "a.safetensors")
    assert found.fingerprint == written
    assert found.origin == made.origin
    assert found.origin.model_fingerprint == box.loaded.fingerprint
    assert [(one.file, one.count) for one in found.origin.sources] == [(file.name, 8) for file in files]
    assert list(found.vectors) == SITES
    for site, values in found.vectors.items():
        assert torch.equal(torch.tensor(values), made.vectors[site])


def test_what_cannot_be_written_is_not(tmp_path: Path) -> None:
    """No file over another, no half of one, no numbers that are none."""
    path, origin = tmp_path / "a.safetensors", Origin(method="drawn")
    with pytest.raises(PolicyError, match=r"attn_out\.1: got NaN or infinity"):
        write_direction(path, {Site(1): torch.tensor([1.0, torch.inf])}, origin)
    with pytest.raises(PolicyError, match=r"got shape \(2, 2\)"):
        write_direction(path, {Site(1): torch.ones(2, 2)}, origin)
    with pytest.raises(PolicyError, match="got no vector"):
        write_direction(path, {}, origin)
    assert not list(tmp_path.iterdir())
    write_direction(path, {Site(1): torch.ones(2)}, origin)
    with pytest.raises(PolicyError, match="already there; give --force"):
        write_direction(path, {Site(1): torch.zeros(2)}, origin)
    with pytest.raises(PolicyError, match="cannot be written"):
        write_direction(tmp_path / "none" / "a.safetensors", {Site(1): torch.ones(2)}, origin)


def test_controls_of_a_direction(box: Runtime) -> None:
    """Doses and the opposite sign are other `add`s, random ones a seed; a policy without directions is as it was."""
    policy = adding(file_of(drawn(8, "attn_out.1")), 2.0)
    assert [baselines.added(policy, factor).steer[0].edit["away"].add for factor in (0, -1, 3)] == [0, -2, 6]
    assert baselines.random_directions(policy, 4).directions["away"].random == 4
    plain = loads("steerkit: 1\nname: p\nfeatures: {f: {layer: 1, index: 2}}\n"
                  "steer: [{name: r, where: any, edit: {f: {clamp: 0}}}]\n")  # fmt: skip
    assert baselines.added(plain, 3) == baselines.random_directions(plain, 1) == plain
    assert baselines.edited_features(policy) == {}


def reading(folder: Path, above: float = 0.3) -> Policy:
    """A policy whose gate reads a probe over a feature and a direction, and its guard a feature."""
    file_of(drawn(128, "attn_out.1", "attn_out.2", "attn_in.1"), folder)
    return loads(
        f"""
steerkit: 1
name: reading
features: {{f: {{layer: 2, index: 5}}, g: {{layer: 1, index: 7}}}}
directions: {{away: {{file: away.safetensors}}}}
probes: {{both: {{bias: 0.2, weights: {{f: 0.5, away: -0.4}}}}}}
steer: [{{name: r, when: {{probe: both, above: {above}}}, where: reply.start, edit: {{g: {{clamp: 0}}}}}}]
guard: {{default: allow, rules: [{{name: h, when: {{feature: g, below: 0.1, at: user}}, then: hold, reason: why}}]}}
""",
        folder=folder,
    )


def test_a_probe_over_directions_is_read_as_the_policy_reads_it(
    box: Runtime, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """The largest sum over a place's steps is that of a turn's watched trace; so is, the control, a feature alone."""
    policy = reading(tmp_path).model_copy(update={"mode": "shadow"})
    watching = policy.model_copy(update={"trace": policy.trace.model_copy(update={"watch": ("both", "g")})})
    for one in placed_readings(policy):
        cases, _ = read_cases(files[0], box.loaded, one.place)
        name, below, weights, bias = sum_of(policy, one.reading)
        found = sum_maxima(box.loaded, box.saes, cases, weights, bias)
        assert (name, below) == (("both", False) if one.gate else ("g", True))
        for case, value in zip(cases, found.tolist(), strict=True):
            turn = box.run_batch([Request(*read_as(case, files[0], box), watching)])[0]
            kept = turn.trace.watched[watch_key(policy, name)]
            assert value == pytest.approx(max(kept[step - turn.trace.start] for step in case.steps), rel=1e-3, abs=1e-3)


def read_as(case: Case, file: Path, box: Runtime) -> tuple[Any, Any]:
    """Messages and tools of the conversation that a case was read from."""
    for line in file.read_text().splitlines():
        row = json.loads(line)
        tools = as_tools(row["tools"], from_function=tool_from_function)
        if render(box.loaded.tokenizer, row["messages"], tools).ids == case.prompt:
            return row["messages"], row["tools"]
    raise AssertionError


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_drift_of_a_probe_over_directions(
    box: Runtime, files: tuple[Path, Path], tmp_path: Path, factor: float
) -> None:
    """On the model itself nothing moves; where a layer's output is three times as large, the probe's values do."""
    assert box.saes is not None
    policy = reading(tmp_path)
    model: Any = copy.deepcopy(box.loaded.model)
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.mul_(factor)
    other = LoadedModel("other", None, model, box.loaded.tokenizer)
    found = reading_drifts(box.loaded, other, box.saes, [policy], {True: files[0], False: files[1]})
    assert [one.name for one in found] == ["both", "g"]
    areas = [one.separation.auroc for one in found if one.separation is not None]
    assert (areas[0][0] == areas[0][1]) is (factor == 1.0)
    assert areas[1][0] == areas[1][1]  # its feature stands in a layer before the change


def test_probes_are_compared_with_one_over_directions(box: Runtime, tmp_path: Path) -> None:
    """The policy's own reading stands in the table beside features and raw activations of the layers up to it."""
    assert box.saes is not None
    some = [*sample("dangerous:transfer_money", "report", 10, 7), *sample("benign", "report", 10, 7)]
    tools = [as_tools(one.tools, from_function=tool_from_function) for one in some]
    cases = [Case(render(box.loaded.tokenizer, one.messages, its).ids) for one, its in zip(some, tools, strict=True)]
    policy = reading(tmp_path).model_copy(update={"guard": None})
    (found,) = gate_probes(box.loaded, box.saes, policy, cases, [True] * 10 + [False] * 10)
    assert [(one.name, one.kind) for one in found.probes][:1] == [("both", "policy")]
    assert [one.kind for one in found.probes] == ["policy", "sparse", "features", "raw"]
    assert found.layers == (0, 1, 2)


@pytest.fixture
def steerkit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in this process."""

    def command(*arguments: str | Path, status: int = 0) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["steerkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run()
        printed = capsys.readouterr()
        assert end.value.code == status, printed.err
        return printed.out, printed.err

    return command


def test_the_command_writes_a_direction_that_a_policy_takes(
    steerkit: Command, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """For some layers of a hook point, as a table or JSON; the policy beside it loads."""
    out = tmp_path / "away.safetensors"
    sets = ("--from", files[0], "--to", files[1])
    said, note = steerkit("features", "direction", *sets, "--layers", "1-2", "--out", out)
    assert [line.split()[:2] for line in said.splitlines()[1:]] == [["layer", "1"], ["layer", "2"]]
    assert f"wrote {out}: from 8 conversations to 8, at reply.start; sha256:" in note
    policy = (
        "directions: {away: {file: away.safetensors}}\nsteer: [{name: r, where: reply.start, edit: {away: {add: 1}}}]"
    )
    (tmp_path / "p.yaml").write_text(f"steerkit: 1\nname: p\n{policy}\n")
    steerkit("policy", "check", tmp_path / "p.yaml", "--model", "tiny")
    said, _ = steerkit("features", "direction", *sets, "--site", "resid_post", "--out", out, "--force", "--json")
    found = json.loads(said)
    assert found["fingerprint"] == read_direction(out).fingerprint
    assert [one["site"] for one in found["sites"]] == [f"resid_post.{layer}" for layer in range(len(found["sites"]))]
    for wrong, expected in (
        (("--out", out), "already there; give --force"),
        (("--out", tmp_path / "b", "--layers", "99"), "the model has no such layer"),
        (("--out", tmp_path / "b", "--at", "nowhere"), "--at: got 'nowhere'"),
        (("--out", tmp_path / "b", "--site", "attn"), "site: got 'attn', expected one of"),
        (("--out", tmp_path / "none" / "b"), "there is no folder"),
    ):
        _, error = steerkit("features", "direction", *sets, *wrong, status=1)
        assert expected in error
        assert len(error.strip().splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"away.safetensors", "p.yaml"}
