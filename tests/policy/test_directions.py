"""Directions in policies: bound to the content of a file, which may be anything."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from steerkit.errors import PolicyError
from steerkit.lab.find import write_policy
from steerkit.policy import Policy, bind, dump, explain, fingerprint, load, loads, read_direction, unreachable
from tests.directions import drawn, file_of

POLICY = """\
steerkit: 1
name: refuse
directions:
  away: {file: made/away.safetensors, label: to a refusal}
steer:
  - {name: r, where: reply.start, edit: {away: {add: 2}}}
"""


def written(folder: Path, text: str = POLICY, **vectors: Any) -> Path:
    """A policy file, and the direction file that it names."""
    (folder / "made").mkdir(exist_ok=True, parents=True)
    file_of(drawn(8, "attn_out.1", "resid_post.0", **vectors), folder / "made")
    path = folder / "refuse.yaml"
    path.write_text(text)
    return path


def test_a_policy_is_bound_to_the_content_of_its_file(tmp_path: Path) -> None:
    """The path begins at the policy's folder; fingerprint and hook points are the file's, in causal order."""
    policy = load(written(tmp_path / "one"))
    away = policy.directions["away"]
    assert away.file == str(tmp_path / "one/made/away.safetensors")
    assert away.fingerprint == read_direction(away.file).fingerprint
    assert away.sites == ("resid_post.0", "attn_out.1")
    assert bind(policy) is policy


def test_equal_files_are_equal_policies_wherever_they_lie(tmp_path: Path) -> None:
    """The fingerprint is of the content: another folder changes nothing, another vector or subset does."""
    one = load(written(tmp_path / "one"))
    other = load(Path(shutil.copytree(tmp_path / "one", tmp_path / "other")) / "refuse.yaml")
    assert fingerprint(one) == fingerprint(other)
    changed = load(written(tmp_path / "third", seed=1))
    fewer = load(written(tmp_path / "fourth", POLICY.replace("label:", "sites: [attn_out.1], label:")))
    random = load(written(tmp_path / "fifth", POLICY.replace("label:", "random: 1, label:")))
    assert len({fingerprint(one) for one in (one, changed, fewer, random)}) == 4


def test_policies_without_directions_say_nothing_of_them() -> None:
    """Their fingerprints and records are as before there were any."""
    policy = loads("steerkit: 1\nname: p\nsteer: [{name: r, where: any, edit: {f: {clamp: 0}}}]\n"
                   "features: {f: {layer: 1, index: 2}}\n")  # fmt: skip
    said = policy.model_dump(mode="json")
    assert "directions" not in said
    assert "add" not in said["steer"][0]["edit"]["f"]
    assert fingerprint(policy) == "sha256:bec97ab875e7a78d4f449d8c3deffaf8cf500b6d514e6b37675c294e6792e312"


def test_what_is_dumped_loads_again(tmp_path: Path) -> None:
    """By its absolute path, or from the folder that the policy will lie in; the fingerprint is pinned."""
    policy = load(written(tmp_path))
    assert loads(dump(policy)) == policy
    text = dump(policy, tmp_path)
    assert "file: made/away.safetensors" in text
    (tmp_path / "again.yaml").write_text(text)
    assert load(tmp_path / "again.yaml") == policy
    assert Policy.model_validate(policy.model_dump(mode="json", exclude_none=True)) == policy


def test_what_the_lab_writes_can_be_moved_with_its_directions(tmp_path: Path) -> None:
    """As a whole folder; the control, without the folder's other file, is refused."""
    policy = load(written(tmp_path / "here"))
    write_policy(policy, tmp_path / "here/found.yaml")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert fingerprint(load(tmp_path / "there/found.yaml")) == fingerprint(policy)
    (tmp_path / "there/made/away.safetensors").unlink()
    with pytest.raises(PolicyError, match="no such file"):
        load(tmp_path / "there/found.yaml")


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    """A policy that says a fingerprint takes no other content; the one that it says it takes."""
    path = written(tmp_path)
    path.write_text(dump(load(path), tmp_path))
    load(path)
    written(tmp_path / "elsewhere", seed=1)
    (tmp_path / "elsewhere/made/away.safetensors").replace(tmp_path / "made/away.safetensors")
    with pytest.raises(PolicyError, match=r"refuse\.yaml:\d+ directions\.away\.fingerprint: got sha256:\w+…, but "):
        load(path)


def test_a_loaded_policy_keeps_the_content_that_it_was_loaded_with(tmp_path: Path) -> None:
    """In the same process a file may be replaced; one that was never read and has changed is refused."""
    away = load(written(tmp_path)).directions["away"]
    kept = read_direction(away.file, away.fingerprint)
    written(tmp_path, seed=1)
    assert read_direction(away.file, away.fingerprint) is kept
    with pytest.raises(
        PolicyError, match=r"away\.safetensors: got sha256:.*, expected sha256:0000.*the file was chang"
    ):
        read_direction(away.file, "sha256:" + 64 * "0")


SAYING: dict[str, tuple[str, str, str]] = {
    "clamp": ("{add: 2}", "{clamp: 0}", r"edit\.away: got clamp of a direction.*expected add"),
    "add and scale": ("{add: 2}", "{add: 2, scale: 1}", "expected add alone, not scale and add"),
    "no number": ("{add: 2}", "{add: 1 max}", r"add: got '1 max', expected a valid number"),
    "infinite": ("{add: 2}", "{add: .inf}", "expected a finite number"),
    "unknown": ("edit: {away", "edit: {awy", "no feature or direction of this policy; did you mean 'away'"),
    "no file": ("file: made/away.safetensors, ", "", r"directions\.away: got no 'file'"),
    "absent": (
        "made/away",
        "made/none",
        r"yaml:4 directions\.away\.file: .*none\.safetensors: no such file; expected a",
    ),
    "folder": ("made/away.safetensors", "made", r"directions\.away\.file: .*made: cannot be read"),
    "a site that is not there": (
        "label:",
        "sites: [attn_out.2], label:",
        "got 'attn_out.2', which is not in .*attn_out.1",
    ),
    "no site": ("label:", "sites: [attn_out], label:", "match pattern"),
    "a site twice": ("label:", "sites: [attn_out.1, attn_out.1], label:", "twice in sites"),
    "no sites": ("label:", "sites: [], label:", "at least 1"),
    "not a fingerprint": ("label:", "fingerprint: abc, label:", "fingerprint: got abc…, but "),
    "name of a feature": ("steer:", "features: {away: {layer: 1, index: 0}}\nsteer:", "also a feature or probe"),
    "read as a feature": ("where:", "when: {feature: away, above: 1}, where:", "no feature of this policy"),
    "unknown key": ("label:", "lable: x, label:", "did you mean 'label'"),
}


@pytest.mark.parametrize("case", SAYING)
def test_mistakes_are_named(tmp_path: Path, case: str) -> None:
    """Each with its line and path; the policy without it loads."""
    old, new, expected = SAYING[case]
    load(written(tmp_path))
    with pytest.raises(PolicyError, match=expected):
        load(written(tmp_path, POLICY.replace(old, new)))


def test_features_are_not_added() -> None:
    """`add` is of directions."""
    text = (
        "steerkit: 1\nname: p\nfeatures: {f: {layer: 1, index: 2}}\nsteer: [{name: r, where: any, edit: {f: {add: 1}}}]"
    )
    with pytest.raises(PolicyError, match=r"got add of a feature, expected shift"):
        loads(text)


def test_two_rules_may_not_add_one_direction_at_one_token(tmp_path: Path) -> None:
    """As with features; other hook points of the file are other edits, and so is a priority that decides."""
    again = POLICY + "  - {name: s, where: reply, edit: {more: {add: 1}}}\n"
    more = "  more: {file: made/away.safetensors, sites: [attn_out.1]}\nsteer:"
    with pytest.raises(PolicyError, match=r"got the direction of .*safetensors at layer 1, which rule 'r'"):
        load(written(tmp_path, again.replace("steer:", more)))
    apart = again.replace("steer:", more).replace("label:", "sites: [resid_post.0], label:")
    assert load(written(tmp_path, apart)).directions["more"].sites == ("attn_out.1",)
    assert load(written(tmp_path, again.replace("steer:", more).replace("add: 1}}", "add: 1}}, priority: 1")))


def test_a_gate_above_the_edit_is_late(tmp_path: Path) -> None:
    """The hook points of the file count: a probe at the higher one cannot act on the lower one in the prompt."""
    text = POLICY.replace("steer:", "  top: {file: made/away.safetensors, sites: [attn_out.1]}\n"
                          "probes: {seen: {bias: -1, weights: {top: 0.5}}}\nsteer:")  # fmt: skip
    text = text.replace("where: reply.start", "when: {probe: seen, above: 0}, where: WHERE")
    policy = load(written(tmp_path, text.replace("WHERE", "reply")))
    assert policy.is_late(policy.steer[0])
    with pytest.raises(PolicyError, match="cannot act in the prompt"):
        load(written(tmp_path, text.replace("WHERE", "user")))


def test_explanations_and_checks_speak_of_directions(tmp_path: Path) -> None:
    """Where they come from and how they are added; adding nothing is named."""
    said = explain(load(written(tmp_path)))
    assert "Direction away (to a refusal) is from " in said
    assert "at resid_post.0, layer 1." in said
    assert "away is added 2 times" in said
    random = explain(load(written(tmp_path, POLICY.replace("label:", "random: 3, label:").replace("add: 2", "add: 1"))))
    assert "is random vectors (seed 3) as long as those in " in random
    assert "away is added." in random
    (nothing,) = unreachable(load(written(tmp_path, POLICY.replace("add: 2", "add: 0"))))
    assert nothing.path == "steer[0].edit.away"


def _about(**about: Any) -> bytes:
    return save({"attn_out.1": torch.ones(4)}, {key: str(value) for key, value in about.items()})


def _entry(data: bytes) -> bytes:
    """A safetensors file of two tensors that share their bytes."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"attn_out.1": entry, "attn_out.2": entry}).encode()
    return struct.pack("<Q", len(header)) + header + data


class Boom:
    """An object that writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("unpickled"),))


GOOD = {"steerkit_direction": "1", "origin": '{"method": "drawn"}'}
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a pickle": (lambda: pickle.dumps(Boom()), "not a safetensors file"),
    "nothing": (lambda: b"", "not a safetensors file"),
    "cut off": (lambda: _about(**GOOD)[:-3], "not a safetensors file"),
    "too long": (lambda: _about(**GOOD) + b"x", "not a safetensors file"),
    "overlapping": (lambda: _entry(bytes(8)), "not a safetensors file"),
    "a huge header": (lambda: struct.pack("<Q", 1 << 60) + b"{}", "not a safetensors file"),
    "other tensors": (lambda: save({"weight": torch.ones(4)}, GOOD), "got 'weight', expected a hook point"),
    "a matrix": (lambda: save({"attn_out.1": torch.ones(2, 2)}, GOOD), r"got F32 of shape \(2, 2\), expected a vector"),
    "another dtype": (lambda: save({"attn_out.1": torch.ones(4).half()}, GOOD), "got F16 of shape"),
    "an empty vector": (lambda: save({"attn_out.1": torch.ones(0)}, GOOD), "expected a vector"),
    "no vector": (lambda: save({}, GOOD), "got no vector"),
    "NaN": (lambda: save({"attn_out.1": torch.tensor([1, torch.nan])}, GOOD), "attn_out.1: got NaN or infinity"),
    "infinity": (lambda: save({"attn_out.1": torch.tensor([1, -torch.inf])}, GOOD), "got NaN or infinity"),
    "no version": (lambda: _about(), "got no version of the format of directions"),
    "another version": (lambda: _about(**{**GOOD, "steerkit_direction": 2}), "got version '2'"),
    "no origin": (lambda: _about(steerkit_direction=1), "origin: got ''"),
    "a wrong origin": (lambda: _about(steerkit_direction=1, origin='{"method": 3}'), "origin.method: got 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_none_are_refused_in_a_line(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By path and what to do, whatever the bytes are; nothing in them is run."""
    monkeypatch.chdir(tmp_path)
    make, expected = FILES[case]
    path = written(tmp_path)
    (tmp_path / "made/away.safetensors").write_bytes(make())
    with pytest.raises(PolicyError, match=expected) as caught:
        load(path)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}:4 directions.away.file: {tmp_path / 'made/away.safetensors'}: ")
    assert "\n" not in line
    assert not Path("unpickled").exists()


def test_a_pickle_would_run() -> None:
    """The control of the one that is refused."""
    assert b"unpickled" in pickle.dumps(Boom())


def test_an_unbound_policy_names_its_file(tmp_path: Path) -> None:
    """One made in Python is bound by hand or by the runtime; the error says which policy it is."""
    direction = {"away": {"file": str(tmp_path / "none.safetensors")}}
    policy = Policy.model_validate({"steerkit": 1, "name": "p", "directions": direction})
    assert not policy.directions["away"].is_bound
    with pytest.raises(PolicyError, match=r"policy 'p' directions\.away\.file: .*none\.safetensors: no such file"):
        bind(policy)
