"""Directions made from conversations: the arithmetic, the file, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.cli.main import run
from steerkit.errors import PolicyError, SaeError
from steerkit.lab import difference_of_means, make_direction, read_cases, write_direction
from steerkit.lab.prove import baselines
from steerkit.policy import Origin, loads, read_direction
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
