"""SAEs on the hub: fetched by name, resumed, pushed; in processes of their own, as the endpoint is read at import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from steerkit.sae import convert, load_set
from tests.hub import TOKEN, hub
from tests.sae.test_formats import planted, set_of, write_gemma_scope


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """What the hub holds: a set as FunctionGemma's, one of SAELens folders, and a Gemma Scope with its examples."""
    root = tmp_path / "hub"
    convert(set_of(*(planted("relu", layer=layer) for layer in (0, 1))), root / "someone" / "plain", "functiongemma")
    (root / "someone" / "plain" / "optimizer.bin").write_bytes(b"x" * 1000)
    convert(set_of(planted("topk", subtract=True)), root / "someone" / "lens", "saelens")
    for layer in (5, 9):
        write_gemma_scope(root / "google" / "scope" / "attn_out" / f"layer_{layer}_width_16k_l0_small", layer)
        write_gemma_scope(
            root / "google" / "scope" / "resid_post" / f"layer_{layer}_width_16k_l0_small", layer, "output"
        )
    return root


RUN = """
import contextlib, io, json, sys
from steerkit.cli.main import run
for arguments in json.loads(sys.argv[1]):
    out, err, sys.argv = io.StringIO(), io.StringIO(), ["steerkit", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run()
        except SystemExit as done:
            status = done.code
    print(json.dumps([status, out.getvalue(), err.getvalue().splitlines()]))
"""


class Done(NamedTuple):
    """How a command ended."""

    status: int
    output: str
    errors: list[str]


def steerkit(tmp_path: Path, endpoint: str, *commands: str, cache: str = "cache", **more: str) -> list[Done]:
    """Run commands against a hub, one after the other in one process, with a cache of this test's own."""
    own = {"HF_HOME": str(tmp_path / cache), "HF_HUB_DISABLE_TELEMETRY": "1", "STEERKIT_HOME": str(tmp_path)}
    env = {**os.environ, **own, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}
    command = [sys.executable, "-c", RUN, json.dumps([line.split() for line in commands])]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [Done(*json.loads(line)) for line in done.stdout.splitlines()]


def failed(done: Done) -> str:
    """The one line of a command that failed."""
    assert done.status == 1, done
    assert len(done.errors) == 1, done
    return done.errors[0]


def test_a_pull_fetches_the_saes_and_nothing_else_once(tmp_path: Path, remote: Path) -> None:
    """The folder it prints is read; what is no SAE stays on the hub; offline the same comes from the cache."""
    with hub(remote) as (endpoint, seen):
        (done,) = steerkit(tmp_path, endpoint, "sae pull someone/plain")
        assert list(load_set(done.output.strip())) == [0, 1]
        assert sum(line.startswith("GET") and "sae_layer_" in line for line in seen) == 2
        assert not any("optimizer.bin" in line for line in seen)
    nowhere = "http://127.0.0.1:9"
    again, other = steerkit(tmp_path, nowhere, "sae pull someone/plain", "sae pull someone/lens", HF_HUB_OFFLINE="1")
    assert again.output == done.output
    assert failed(other).startswith("error: someone/lens: the SAEs could not be fetched from the hub: ")


def test_any_format_is_recognised_in_a_repository(tmp_path: Path, remote: Path) -> None:
    """A SAELens repository is inspected by its name; folders of Gemma Scope by a pattern, without their examples."""
    with hub(remote) as (endpoint, seen):
        lens, scope = steerkit(
            tmp_path,
            endpoint,
            "sae inspect someone/lens",
            "sae inspect google/scope/attn_out/layer_*_width_16k_l0_small",
        )
        assert lens.output.splitlines()[1].split()[-2:] == ["topk", "output"]
        rows = [line.split() for line in scope.output.splitlines()[1:]]
        assert [(row[0], row[-2], row[-1]) for row in rows] == [("5", "jumprelu", "input"), ("9", "jumprelu", "input")]
        assert sum(line.startswith("GET") and "params.safetensors" in line for line in seen) == 2
        assert not any("examples" in line for line in seen)


def test_a_repository_of_many_asks_for_the_folder(tmp_path: Path, remote: Path) -> None:
    """Its name alone fetches no weights and gets one clear line; so do a folder and a repository that are not there."""
    with hub(remote) as (endpoint, seen):
        names = {
            "google/scope": "google/scope: no SAE there",
            "google/scope/mlp_out": "no SAEs in such a folder",
            "someone/none": "no such repository",
            "google/scope/../plain": "neither a folder nor a hub repository id",
        }
        for done, reason in zip(
            steerkit(tmp_path, endpoint, *(f"sae inspect {name}" for name in names)), names.values(), strict=True
        ):
            assert reason in failed(done)
        assert not any("params" in line for line in seen)


def test_a_download_that_breaks_off_goes_on_where_it_stopped(tmp_path: Path, remote: Path) -> None:
    """Cut off once it is resumed at once, cut off for good it gets one line and no set; the next pull completes it."""
    whole = (remote / "someone" / "plain" / "sae_layer_00.pt").read_bytes()
    with hub(remote, {"sae_layer_00.pt": 1}) as (endpoint, _):
        (done,) = steerkit(tmp_path, endpoint, "sae pull someone/plain", cache="other")
        assert (Path(done.output.strip()) / "sae_layer_00.pt").read_bytes() == whole
    with hub(remote, {"sae_layer_00.pt": 99}) as (endpoint, _):
        (done,) = steerkit(tmp_path, endpoint, "sae pull someone/plain")
        assert done.status == 1
        assert "someone/plain: the SAEs could not be fetched from the hub" in done.errors[-1]
    with hub(remote) as (endpoint, _):
        (done,) = steerkit(tmp_path, endpoint, "sae pull someone/plain")
        assert (Path(done.output.strip()) / "sae_layer_00.pt").read_bytes() == whole
        assert list(load_set(done.output.strip())) == [0, 1]


def test_a_pushed_set_is_the_set_that_is_pulled(tmp_path: Path, remote: Path) -> None:
    """With the token, SAEs, labels and README arrive in one commit, other files do not; without it one line says no."""
    made = set_of(*(planted("gated", layer=layer, point="attn_in") for layer in (3, 4)))
    convert(made, tmp_path / "mine", "safetensors")
    (tmp_path / "mine" / "labels.json").write_text('{"format": 1, "labels": {"3": {"7": "money"}}}')
    (tmp_path / "mine" / "README.md").write_text("# mine\n")
    (tmp_path / "mine" / "secret.txt").write_text("secret")
    with hub(remote) as (endpoint, seen):
        (refused,) = steerkit(tmp_path, endpoint, "sae push mine me/saes", HF_TOKEN="hf_wrong")
        assert failed(refused).startswith("error: me/saes: the SAEs could not be put on the hub: ")
        assert not (remote / "me").exists()
        pushed, pulled = steerkit(tmp_path, endpoint, "sae push mine me/saes", "sae pull me/saes", HF_TOKEN=TOKEN)
        assert pushed.output.startswith(f"{endpoint}/me/saes/commit/"), pushed
        assert sum("/commit/" in line for line in seen) == 1
    assert sorted(path.name for path in (remote / "me" / "saes").iterdir()) == [
        "README.md",
        "labels.json",
        "sae_attn_in_03.safetensors",
        "sae_attn_in_04.safetensors",
    ]
    found = load_set(pulled.output.strip())
    assert found.fingerprint == made.fingerprint
    assert len(found.labels) == 1


def test_nothing_broken_is_pushed(tmp_path: Path, remote: Path) -> None:
    """A folder without SAEs, and one with a truncated file, never reach the hub."""
    convert(set_of(planted("relu")), tmp_path / "mine", "safetensors")
    path = tmp_path / "mine" / "sae_layer_02.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "empty").mkdir()
    with hub(remote) as (endpoint, seen):
        broken, empty = steerkit(tmp_path, endpoint, "sae push mine me/saes", "sae push empty me/saes", HF_TOKEN=TOKEN)
        assert "truncated or not a safetensors file" in failed(broken)
        assert "no SAE there" in failed(empty)
        assert seen == []
