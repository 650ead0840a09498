"""Turns under policies with directions: what is run, recorded, judged and replayed, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import Store, compare, read_turn
from steerkit.errors import PolicyError, SteeringError
from steerkit.lab import origin_of, write_direction
from steerkit.policy import Policy, fingerprint, load, read_direction
from steerkit.runtime import Request, replay
from steerkit.sites import Site
from steerkit.types import Tool
from tests.directions import drawn

TOOLS = [Tool("get_weather", "Weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}})]
ASKED = [{"role": "user", "content": "What is the weather in Oslo?"}]
POLICY = """\
steerkit: 1
name: pushed
directions:
  away: {file: away.safetensors}
  low: {file: away.safetensors, sites: [attn_out.1]}
probes:
  seen: {weights: {low: 1.0}}
steer:
  - {name: push, where: reply.start, edit: {away: {add: 1.0}}}
guard:
  default: allow
  rules: [{name: high, when: {probe: seen, above: -1.0e+6, at: call.open}, then: hold}]
trace: {watch: [seen]}
"""


def written(runtime: Runtime, folder: Path, *, seed: int = 0, scale: float = 30.0) -> Path:
    """A policy file and its direction, made on this model."""
    width = runtime.loaded.model.config.hidden_size
    vectors = drawn(width, "attn_out.1", "resid_post.2", seed=seed, scale=scale)
    write_direction(folder / "away.safetensors", vectors, origin_of(runtime.loaded, "drawn"), force=True)
    path = folder / "pushed.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with steerkit.load("tiny", audit=tmp_path_factory.mktemp("audit") / "audit.db") as found:
        yield found


def turn_of(runtime: Runtime, policy: Any, **more: Any) -> steerkit.Turn:
    return runtime.run(ASKED, TOOLS, policy=policy, max_new_tokens=32, **more)


def test_a_turn_is_steered_recorded_and_replayed(runtime: Runtime, tmp_path: Path) -> None:
    """Its record names the file by its content, and where it was added; replay gives the turn, other vectors do not."""
    policy = load(written(runtime, tmp_path))
    plain, turn = turn_of(runtime, ()), turn_of(runtime, tmp_path / "pushed.yaml")
    assert turn.reply_ids != plain.reply_ids
    assert [(edit.rule, edit.site) for edit in turn.trace.edits] == [
        ("push", Site(1)),
        ("push", Site(2, "resid_post")),
    ]
    assert not plain.trace.edits
    assert runtime.store is not None
    recorded = read_turn(runtime.store, runtime.store.get(str(turn.record_id)))
    (said,) = recorded.record.policies
    assert said.fingerprint == fingerprint(policy)
    assert said.content is not None
    assert said.content["directions"]["away"]["fingerprint"] == policy.directions["away"].fingerprint
    again = replay(runtime, recorded)
    assert compare(recorded, again.record, again.turn.trace).same
    assert again.turn.reply_ids == turn.reply_ids
    written(runtime, tmp_path, seed=1)
    other = turn_of(runtime, tmp_path / "pushed.yaml")
    assert other.trace.edits[0].norm != turn.trace.edits[0].norm


def test_a_batch_of_mixed_policies_is_its_singles(runtime: Runtime, tmp_path: Path) -> None:
    """Beside requests without a policy and under one of features; on steps of fixed shape as well."""
    policies = [written(runtime, tmp_path), (), "payments"]
    alone = [turn_of(runtime, policy) for policy in policies]
    for graphs in (False, True):
        with steerkit.load("tiny", audit=False, graphs=graphs) as other:
            made = other.run_batch([Request(ASKED, TOOLS, one, steerkit.engine.Sampling(32)) for one in policies])
        assert [turn.reply_ids for turn in made] == [turn.reply_ids for turn in alone]
        assert [len(turn.trace.edits) for turn in made] == [len(turn.trace.edits) for turn in alone]
        for name, values in alone[0].trace.watched.items():
            assert made[0].trace.watched[name] == pytest.approx(values, rel=1e-4, abs=1e-2)


def test_no_saes_are_needed(runtime: Runtime, tmp_path: Path) -> None:
    """The same reply and edits by a runtime that has none; features are refused there."""
    path, bare = written(runtime, tmp_path), Runtime(runtime.loaded)
    expected, found = turn_of(runtime, path), turn_of(bare, path)
    assert found.reply_ids == expected.reply_ids
    assert found.trace.edits == expected.trace.edits
    assert found.trace.watched == expected.trace.watched
    with pytest.raises(SteeringError, match="no SAEs are loaded"):
        turn_of(bare, "payments")


def test_the_guard_reads_directions(runtime: Runtime, tmp_path: Path) -> None:
    """A call is held on a reading of raw activations, and recomputing from the record says so too; a bound decides."""
    path = written(runtime, tmp_path, scale=1e-4)
    turn = turn_of(runtime, path)
    (verdict,) = turn.verdicts
    assert (verdict.decision, verdict.rule) == ("hold", "high")
    (reading,) = verdict.readings
    assert reading.value == pytest.approx(max(turn.trace.watched["pushed.seen"]), abs=1.0)
    path.write_text(POLICY.replace("-1.0e+6", "1.0e+6"))
    assert turn_of(runtime, path).verdicts[0].decision == "allow"


def test_another_models_direction_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    """By the weights' fingerprint in the dtype it was made in, in another dtype by the tokenizer's."""
    path = written(runtime, tmp_path)
    origin = origin_of(runtime.loaded, "drawn")
    vectors = drawn(runtime.loaded.model.config.hidden_size, "attn_out.1", "resid_post.2")
    away, zeros = tmp_path / "away.safetensors", "sha256:" + 64 * "0"

    def ready(**changed: str) -> bool:
        write_direction(away, vectors, origin.model_copy(update=changed), force=True)
        return len(runtime.policies_of(path)) == 1

    wrong = rf"directions\.away: {away}: made on tiny \(sha256:.*steerkit features direction"
    for changed in ({"model_fingerprint": zeros}, {"dtype": "float16", "tokenizer": zeros}):
        with pytest.raises(PolicyError, match=wrong):
            ready(**changed)
    assert ready()
    assert ready(dtype="float16", model_fingerprint=zeros)
    assert ready(model_fingerprint="", tokenizer="")


def test_a_policy_made_in_python_is_bound_by_the_runtime(runtime: Runtime, tmp_path: Path) -> None:
    """Its file is read when it is made ready, and the ready one is kept by content."""
    written(runtime, tmp_path)
    data = {"steerkit": 1, "name": "p", "directions": {"away": {"file": str(tmp_path / "away.safetensors")}}}
    (ready,) = runtime.policies_of(Policy.model_validate(data))
    assert ready.directions["away"].fingerprint == read_direction(tmp_path / "away.safetensors").fingerprint


def test_a_replay_without_the_files_content_says_so(runtime: Runtime, tmp_path: Path) -> None:
    """In a process that never saw the old content: one line with both fingerprints, and with the file back the turn."""
    path, store = written(runtime, tmp_path), tmp_path / "audit.db"
    with steerkit.load("tiny", audit=store) as other:
        id = turn_of(other, path).record_id
    kept = (tmp_path / "away.safetensors").read_bytes()
    Store(store).close()

    def replayed() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "steerkit.cli.main", "audit", "replay", str(id), "--store", str(store)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert replayed().returncode == 0
    written(runtime, tmp_path, seed=1)
    ran = replayed()
    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr
    assert "the file was changed" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    (tmp_path / "away.safetensors").unlink()
    assert "no such file" in replayed().stderr
    (tmp_path / "away.safetensors").write_bytes(kept)
    assert replayed().returncode == 0


def test_gradients_and_modes_leave_no_trace_in_kept_plans(runtime: Runtime, tmp_path: Path) -> None:
    """A plan that was compiled inside inference mode steers outside of it."""
    path = written(runtime, tmp_path)
    with torch.inference_mode():
        inside = turn_of(runtime, path)
    assert turn_of(runtime, path).reply_ids == inside.reply_ids
