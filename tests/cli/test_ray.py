"""`--engine ray` on a real cluster of two workers on this machine, which the tests start and stop."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import Store
from steerkit.cli.main import app
from steerkit.errors import MissingExtraError, ModelError, PolicyError, SteerkitError
from steerkit.lab.prove.suites.cases import read_mobile_actions
from steerkit.lab.prove.suites.run import run_suite
from steerkit.lab.workers.local import fingerprints, in_this_process, load_same
from steerkit.lab.workers.ray import check_ray, cluster, on_ray
from steerkit.policy import load
from steerkit.sae.cpu import onednn
from steerkit.tiny.world.conversations import sample
from tests.cli import ray_jobs
from tests.cli.test_eval import POLICIES, QUICK, written
from tests.cli.two_turns import two_turns

PAYMENTS = POLICIES / "payments.yaml"
RAY = ("--engine", "ray")
T = TypeVar("T")


def test_a_cluster_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any other test starts one: the address and what to do, at once and not after Ray's own many minutes."""
    check_ray()  # Ray asks when it is imported whether it may listen beyond this machine: for the tests' own it may not
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(ModelError, match=r"^ray: no cluster at '127.*refused\); set RAY_ADDRESS"), cluster():
            pass


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of two workers, which the commands find."""
    with cluster(2):
        import ray

        yield ray


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two harmful and two benign conversations."""
    folder = tmp_path_factory.mktemp("files")
    harmful = written(folder / "harmful.jsonl", sample("dangerous:transfer_money", "report", 2, 7))
    return harmful, written(folder / "benign.jsonl", sample("benign", "report", 2, 7))


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[str, str]:
    """What a command prints and says on stderr, run in this process."""
    capsys.readouterr()
    app([*map(str, arguments)], standalone_mode=False)
    return capsys.readouterr()


def stat(pid: int) -> list[str]:
    """What /proc says of a process after its name: its state and its parent first. Raises OSError once it is gone."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def busy(pid: int) -> bool:
    """Whether a process is a worker of this test's own cluster that is doing a batch now."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        at_work = words.startswith(b"ray::MapWorker") and b".submit" in words
        return at_work and int(stat(int(stat(pid)[1]))[1]) == os.getpid()  # started by a raylet that we started
    except OSError:  # it has just ended
        return False


def within(seconds: float, found: Callable[[], T | None]) -> T:
    """What is found in this time, looked for again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (one := found()) is not None:
            return one
        time.sleep(0.005)
    raise AssertionError("not found in time")


def killed(once: Path) -> int | None:
    """Once a file is there, kill a worker that is doing a batch; its process id, or None where there is none.

    It is stopped first and looked at again: what has not given its batch back by then never will.
    """
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()] if once.exists() else []
    for pid in filter(busy, pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            within(60, lambda pid=pid: stat(pid)[0] == "T" or None)
            at_work = busy(pid)
            os.kill(pid, signal.SIGKILL if at_work else signal.SIGCONT)
            if at_work:
                return pid
    return None


def gone(pid: int) -> bool | None:
    """True once a process is dead, though nobody may have asked for its exit code yet."""
    try:
        return stat(pid)[0] == "Z" or None
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the worker to kill in /proc")
def test_a_killed_worker_loses_nothing(
    ray: Any, capsys: pytest.CaptureFixture[str], files: tuple[Path, Path], tmp_path: Path
) -> None:
    """SIGKILL in the middle of an evaluation: report and outcomes are those of one process to the byte.

    The control: it was at work when it was killed, so that its batch has to be done again.
    """
    options = ("--policy", PAYMENTS, "--harmful", files[0], "--benign", files[1], *QUICK, "--batch", "2")
    assert ray.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"
    run(capsys, "eval", *options, "--json", tmp_path / "one.json", "--out", tmp_path / "one")
    with ThreadPoolExecutor() as other:
        killing = other.submit(within, 300, partial(killed, tmp_path / "many" / "unsteered.jsonl"))
        run(capsys, "eval", *options, *RAY, "--json", tmp_path / "many.json", "--out", tmp_path / "many")
        pid = killing.result()
    assert within(60, partial(gone, pid))
    assert (tmp_path / "many.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"run.json", "unsteered.jsonl", "policy.jsonl", "means.jsonl"} <= set(names)
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == names
    for name in names:
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_calibration_is_the_same(ray: Any, capsys: pytest.CaptureFixture[str], files: tuple[Path, Path]) -> None:
    """The bounds are those of one process in every digit, and nothing but them is printed; other data has others."""
    command = ("calibrate", PAYMENTS, "--rate", "0.5", "--max-new-tokens", "48", "--json", "--data")
    here = run(capsys, *command, files[1])
    assert run(capsys, *command, files[1], *RAY) == here
    assert json.loads(here[0])["bounds"][0]["new"] != json.loads(run(capsys, *command, files[0])[0])["bounds"][0]["new"]


def test_replays_are_the_same(ray: Any, box: Runtime, tmp_path: Path) -> None:
    """A turn that is as recorded and one that is not: the same lines in the same order, and exit status 1."""
    store = Store(two_turns(box, tmp_path / "a.db"), create=False)
    record, mixed = store.get("3"), Store(tmp_path / "mixed.db")
    body: dict[str, Any] = {**record.content, "policies": store.get("1").content["policies"]}
    for name in ("run", "number"):
        body.pop(name)
    for changed in (0, 1):
        forged = list(body["reply_ids"])
        forged[2] += changed
        mixed.append({**body, "reply_ids": forged}, store.trace_of(record))
    command = ["audit", "replay", "1", "2", "--store", str(tmp_path / "mixed.db"), "--json"]
    here, there = (CliRunner().invoke(app, [*command, *more]) for more in ((), (*RAY, "--workers", "1")))
    assert (there.exit_code, there.stdout) == (here.exit_code, here.stdout) == (1, here.stdout)
    assert [json.loads(line)["same"] for line in there.stdout.splitlines()] == [True, False]


def test_an_error_of_a_worker_is_that_of_one_process(
    ray: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The same kind of error with all it says, and nothing of Ray's around it; what came before it has come."""
    for number, mapper_of in enumerate((nullcontext(in_this_process(ray_jobs.load)), on_ray(ray_jobs.load, workers=1))):
        (folder := tmp_path / str(number)).mkdir()
        with mapper_of as mapper:
            results = mapper(partial(ray_jobs.job, folder), ["plain", "wrong", "after"])
            assert next(results) == ("plain", "loaded")
            with pytest.raises(PolicyError, match=r"^a: got 1\nb: got 2$") as caught:
                next(results)
        assert caught.value.problems == ["a: got 1", "b: got 2"]
        assert (str(os.getpid()) in (folder / "plain").read_text()) is (number == 0)
    assert capfd.readouterr() == ("", "")


def test_what_kills_every_worker_ends(ray: Any, tmp_path: Path) -> None:
    """After so many workers as are allowed it is an error; results before it came, in order, with their warnings."""
    with on_ray(ray_jobs.load, workers=1, retries=1) as mapper:
        results = mapper(partial(ray_jobs.job, tmp_path), ["plain", "warns", "deadly"])
        assert next(results) == ("plain", "loaded")
        with pytest.warns(UserWarning, match="something is garbled"):
            assert next(results) == ("warns", "loaded")
        with pytest.raises(ModelError, match="ray: batch 2 killed its worker 2 times over; it may lack memory"):
            next(results)
    assert len(set((tmp_path / "deadly").read_text().split())) == 2
    assert len((tmp_path / "plain").read_text().split()) == 1


def test_without_ray_one_line_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, files: tuple[Path, Path]
) -> None:
    """The engine of one process needs no Ray; the other says what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ("calibrate", PAYMENTS, "--data", files[1], "--limit", "1", "--rate", "0.5", "--json")
    assert json.loads(run(capsys, *command)[0])["bounds"]
    with pytest.raises(MissingExtraError, match=r"pip install -e '.\[ray\]'"):
        run(capsys, *command, *RAY)


def test_options_that_say_nothing_are_refused(capsys: pytest.CaptureFixture[str], files: tuple[Path, Path]) -> None:
    """Workers without a cluster, and a cluster for what is not run on one."""
    for arguments, said in (
        (("calibrate", PAYMENTS, "--data", files[1], "--workers", "2"), "--workers: got 2 with --engine local"),
        (("calibrate", PAYMENTS, "--store", "none.db", *RAY), "--store, off which nothing is run; expected --data"),
        (("audit", "replay", "1", "--verdicts", *RAY), "with what is done here alone"),
    ):
        with pytest.raises(SteerkitError, match=said):
            run(capsys, *arguments)


def test_another_model_under_the_same_name_is_refused(box: Runtime) -> None:
    """A worker whose weights or SAEs are not those of the process that asks does nothing."""
    model, saes = fingerprints(box)
    assert load_same(lambda: box, (model, saes)) is box
    for wanted, what in ((("sha256:0", saes), "weights"), ((model, None), "SAEs")):
        with pytest.raises(ModelError, match=f"a worker has other {what} under this name"):
            load_same(lambda: box, wanted)


def test_a_worker_lays_weights_out_as_the_process_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it measured itself, so that sums are rounded alike; where it cannot, it does nothing."""
    for wanted in (True, False):
        runtime = steerkit.load("tiny", audit=False, prepack=not wanted)
        same = load_same(lambda runtime=runtime: runtime, fingerprints(runtime), wanted)
        assert same.loaded.runs_prepacked is wanted
    monkeypatch.setattr(onednn, "supports", lambda dtype: False)
    with pytest.raises(ModelError, match=r"no oneDNN products in float32.*; run it again with --no-prepack"):
        load_same(lambda: runtime, fingerprints(runtime), True)


def test_what_a_suite_sends_survives_the_way(box: Runtime, tmp_path: Path) -> None:
    """Work, tests, policies and turns that went through bytes give the scores of those that did not."""
    rows = []
    for one in sample("single:get_balance", "train", 2, 1):
        calls = [{"type": "function", "function": call} for call in one.expected_calls]
        messages = [*one.messages, {"role": "assistant", "tool_calls": calls}]
        rows.append(json.dumps({"metadata": "eval", "messages": messages, "tools": list(one.tools)}))
    (tmp_path / "mobile.jsonl").write_text("\n".join(rows))
    cases, way = read_mobile_actions(tmp_path / "mobile.jsonl"), list[int]()

    def through_bytes(work: Any, pieces: Any) -> Iterator[Any]:
        for piece in pieces:
            sent = pickle.dumps((work, piece))
            way.append(len(sent))
            again, given = pickle.loads(sent)
            yield pickle.loads(pickle.dumps(again(box, given)))

    policy = load(POLICIES / "people.yaml")
    found = run_suite(box, cases, policy, max_new_tokens=48, batch=1, mapper=through_bytes)
    assert found == run_suite(box, cases, policy, max_new_tokens=48, batch=1)
    assert [one.passed.hits for one in found] == [2, 2, 2]
    assert len(way) == 4
