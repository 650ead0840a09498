"""The engine for vLLM, as far as it goes without vLLM: what its worker steers, what goes over the wire, what is
refused. Its tests with vLLM are `tests/vllm`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

import steerkit
from steerkit.cli.serve import serve_command
from steerkit.engine import Vllm, VllmEngine, load_model, read_settings
from steerkit.engine.vllm import arguments
from steerkit.engine.vllm.steering import Scheduled, WorkerSteering
from steerkit.engine.vllm.wire import packed_trace, packed_wanted, row_name, unpacked_trace, unpacked_wanted
from steerkit.errors import MissingExtraError, ModelError, SaeError, SettingError
from steerkit.policy import load, shipped_file
from steerkit.sites import Feature, Site
from steerkit.steer import Extent, Wanted
from steerkit.testing import planted_policy, planted_saes, small_model
from steerkit.types import Edit, Span, TopK, Trace

MODEL = small_model()
SAES = planted_saes(MODEL)
WIDTH = SAES[0].d_in
SITES = (Site(0), Site(1))
CPU = torch.device("cpu")


def row(**rule: Any) -> Wanted:
    """A row of one policy that clamps a feature of layer 0 at every token."""
    steer = [{"name": "r", "where": "any", "edit": {"f": {"clamp": 9.0}}, **rule}]
    return Wanted((planted_policy("p", {"f": (0, 11), "g": (0, 3)}, steer=steer),), {"p": ("g",)})


CLAMP = row()
HELD = row(when={"feature": "g", "above": 0.0, "at": "prompt"}, **{"for": "turn"})


def steering(**rows: Wanted) -> WorkerSteering:
    """The steering of a worker that holds these rows. Its place machine is asked by none of them."""
    made = WorkerSteering(SITES, SAES, CPU, None)  # type: ignore[arg-type]
    made.set_rows(rows)
    return made


def run(
    one: WorkerSteering, tokens: dict[str, tuple[int, int]], *, padding: int = 0, sites: Sequence[Site] = SITES
) -> tuple[Tensor, Tensor]:
    """A pass over some requests' tokens (the first, how many): activations before and after the first site."""
    size = sum(length for _, length in tokens.values()) + padding
    y = torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(size))
    one.schedule({request: Scheduled(*piece) for request, piece in tokens.items()})
    one.begin(list(tokens), torch.zeros(size, dtype=torch.int32))
    found = [one.steer(site, y) for site in sites]
    one.end()
    return y, y if found[0] is None else found[0]


def test_each_request_is_under_the_row_that_it_names() -> None:
    """Its tokens change, those of others and padding keep their bits, and each is told as steered."""
    one = steering(clamp=CLAMP)
    one.arrive("a", "clamp", 3)
    one.arrive("b", None, 2)
    y, after = run(one, {"a": (0, 3), "b": (0, 2)}, padding=3)
    assert bool((after[:3] != y[:3]).any(dim=-1).all())
    assert torch.equal(after[3:], y[3:])
    assert [one.error(request, length) for request, length in (("a", 3), ("b", 2))] == ["", ""]
    assert one.error("a", 4) == "was steered for 3 of 4 tokens"
    assert one.error("c", 1) == "is not known to the worker"


def test_policies_may_all_be_without_a_rule() -> None:
    """A guard alone steers nothing, and its requests are vouched for."""
    one = steering(judged=Wanted((planted_policy("q"),)))
    one.arrive("a", "judged", 2)
    y, after = run(one, {"a": (0, 2)})
    assert torch.equal(after, y)
    assert one.error("a", 2) == ""


def test_a_request_under_no_known_row_fails_alone() -> None:
    """Of whatever type its name is; it runs unsteered beside one that is steered."""
    one = steering(clamp=CLAMP)
    one.arrive("good", "clamp", 1)
    wrong = ["nobody's", 7, ["clamp"], {"clamp": 1}]
    for number, name in enumerate(wrong):
        one.arrive(f"wrong{number}", name, 1)
    y, after = run(one, {"good": (0, 1), **{f"wrong{number}": (0, 1) for number in range(4)}})
    assert not torch.equal(after[0], y[0])
    assert torch.equal(after[1:], y[1:])
    assert one.error("good", 1) == ""
    assert all("none of the worker's policies" in one.error(f"wrong{number}", 1) for number in range(4))


def test_cached_tokens_fail_a_request_under_a_rule() -> None:
    """It cannot have been steered there; a request without a rule may begin after them."""
    one = steering(clamp=CLAMP, watched=Wanted((planted_policy("q"),)))
    for request, name in {"ruled": "clamp", "free": None, "judged": "watched", "good": "clamp"}.items():
        one.arrive(request, name, 6)
    y, after = run(one, {"ruled": (4, 2), "free": (4, 2), "judged": (4, 2), "good": (0, 2)})
    assert torch.equal(after[:6], y[:6])
    assert not torch.equal(after[6:], y[6:])
    assert "tokens from 4 on came after 0" in one.error("ruled", 6)
    assert [one.error("free", 6), one.error("judged", 6), one.error("good", 2)] == ["", "", ""]


def test_a_request_that_is_computed_again_is_steered_again() -> None:
    """After a preemption from its beginning, its gate's memory too; other pieces give the same."""
    whole, pieces = steering(held=HELD), steering(held=HELD)
    for one in (whole, pieces):
        one.arrive("a", "held", 4)
    y, after = run(whole, {"a": (0, 6)})
    for start, length in ((0, 3), (0, 2), (2, 4)):
        pieces.schedule({"a": Scheduled(start, length)})
        pieces.begin(["a"], torch.zeros(length, dtype=torch.long))
        found = [pieces.steer(site, y[start : start + length]) for site in SITES]
        pieces.end()
    assert found[0] is not None
    assert torch.allclose(found[0], after[2:], atol=1e-5)
    assert not torch.equal(after, y)
    extent = Extent(6)
    one, other = whole.traces([("a", extent)])[0], pieces.traces([("a", extent)])[0]
    assert one.watched["p.g"] == pytest.approx(other.watched["p.g"], abs=1e-5)
    assert [edit.positions for edit in one.edits] == [edit.positions for edit in other.edits]


def test_a_pass_whose_hooks_did_not_run_fails_its_requests() -> None:
    """All of them, by the site; those of the next pass are well. So does a pass that was not told of."""
    one = steering(clamp=CLAMP)
    for request in "abc":
        one.arrive(request, "clamp", 1)
    run(one, {"a": (0, 1), "b": (0, 1)}, sites=SITES[:1])
    run(one, {"c": (0, 1)})
    said = "layer 1: its o_proj ran 0 times in a pass, expected once"
    assert [one.error(request, 1) for request in "abc"] == [said, said, ""]
    one.schedule({"c": Scheduled(1, 1)})
    one.end()
    assert one.error("c", 2) == "a pass ran that steering was not told of"


def test_warm_up_passes_are_nobodys() -> None:
    """vLLM profiles and compiles with passes that no scheduler made: nothing is steered, nothing fails."""
    one = steering(clamp=CLAMP)
    one.begin(["dummy"], torch.zeros(1, dtype=torch.long))
    assert one.steer(SITES[0], torch.ones(1, WIDTH)) is None
    one.end()
    one.arrive("a", "clamp", 1)
    run(one, {"a": (0, 1)})
    assert one.error("a", 1) == ""


def test_what_goes_wrong_in_a_pass_is_its_requests_error() -> None:
    """A pass with embeddings, an order of strangers, activations of another width: nothing is raised."""
    one = steering(clamp=CLAMP)
    for request in "abc":
        one.arrive(request, "clamp", 1)
    one.schedule({"a": Scheduled(0, 1)})
    one.begin(["a"], None)
    one.end()
    one.schedule({"b": Scheduled(0, 1)})
    one.begin(["b", "stranger"], torch.zeros(1, dtype=torch.long))
    one.end()
    one.schedule({"c": Scheduled(0, 1)})
    one.begin(["c"], torch.zeros(1, dtype=torch.long))
    assert one.steer(SITES[0], torch.ones(1, WIDTH + 1)) is None
    one.end()
    found = [one.error(request, 1) for request in "abc"]
    assert found[0] == "could not be steered: AssertionError: got embeddings, expected tokens"
    assert found[1] == "could not be steered: KeyError: 'stranger'"
    assert found[2].startswith("could not be steered at layer 0: its o_proj: RuntimeError")
    one.fail_all("the schedule could not be read")
    one.arrive("d", None, 1)
    assert one.error("d", 0) == "the schedule could not be read"


def test_rows_that_are_replaced_leave_who_runs_as_it_is() -> None:
    """A request goes to its end under the plan that it began under, beside others under the new one; nothing of a plan
    stays that nobody runs under."""
    one, alone = steering(clamp=CLAMP), steering(clamp=CLAMP)
    for request in "ab":
        one.arrive(request, "clamp", 2)
    run(one, {"a": (0, 2), "b": (0, 2)})
    one.leave(["a"])
    one.set_rows({"held": HELD})
    for request, name in {"new": "held", "free": None}.items():
        one.arrive(request, name, 1)
    y, after = run(one, {"b": (2, 1), "new": (0, 1), "free": (0, 1)})
    for request, name in {"b": "clamp", "new": None, "free": None}.items():
        alone.arrive(request, name, 2)
    run(alone, {"b": (0, 2)})
    _, expected = run(alone, {"b": (2, 1), "new": (0, 1), "free": (0, 1)})
    assert torch.equal(after[0], expected[0])
    assert not torch.equal(after[0], y[0])
    assert torch.equal(after[2], y[2])
    assert [one.error(request, length) for request, length in (("a", 2), ("b", 3), ("new", 1))] == ["", "", ""]
    assert one.traces([("a", Extent(2))])[0].edits
    assert [edit.positions for edit in one.traces([("b", Extent(3))])[0].edits] == [
        edit.positions for edit in alone.traces([("b", Extent(3))])[0].edits
    ]
    assert len(one._runs) == 2
    one.leave(["b"])
    assert one._runs == [one._run]
    edit = {"name": "r", "where": "any", "edit": {"f": {"clamp": 1.0}}}
    with pytest.raises(SaeError, match="has no feature 1000000"):
        one.set_rows({"far": Wanted((planted_policy("q", {"f": (0, 10**6)}, steer=[edit]),))})
    one.arrive("c", "held", 1)
    assert one.error("c", 0) == ""


def test_traces_are_read_together_as_they_are_alone() -> None:
    """Of requests of other lengths and under other rows, with features, gates that open late, and edits."""
    lengths = {"a": (0, 5), "b": (0, 2), "c": (0, 3), "d": (0, 4)}
    asked = [(request, Extent(length, Span(0, length))) for request, (_, length) in lengths.items()]
    found: list[list[Trace]] = []
    for together in (True, False):
        one = WorkerSteering(sorted(SAES), SAES, CPU, None)  # type: ignore[arg-type]  # as above
        one.set_rows({"clamp": CLAMP._replace(top_k=3), "held": HELD._replace(top_k=2)})
        for request, name in {"a": "clamp", "b": "held", "c": "clamp", "d": None}.items():
            one.arrive(request, name, 2)
        run(one, lengths, sites=sorted(SAES))
        found.append(one.traces(asked) if together else [one.traces([each])[0] for each in asked])
        assert one._requests == {}
    for trace, alone in zip(*found, strict=True):
        assert trace.features == alone.features
        assert [replace(top, value=b"") for top in trace.top] == [replace(top, value=b"") for top in alone.top]
        assert [edit.positions for edit in trace.edits] == [edit.positions for edit in alone.edits]
        assert [edit.norm for edit in trace.edits] == pytest.approx([edit.norm for edit in alone.edits])
        for name, values in alone.watched.items():
            assert trace.watched[name] == pytest.approx(values, abs=1e-5)
    assert [len(one.top) for one in found[0]] == [len(SAES), len(SAES), len(SAES), 0]
    assert found[0][0].edits
    assert found[0][2].edits


def test_what_nobody_reads_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest that are done; and a request that is forgotten leaves nothing."""
    monkeypatch.setattr("steerkit.engine.vllm.steering._MOST_DONE", 3)
    one = steering(clamp=CLAMP)
    for number in range(8):
        one.arrive(f"r{number}", "clamp", 1)
        run(one, {f"r{number}": (0, 1)})
        one.leave([f"r{number}"])
    assert [one.error(f"r{number}", 1) for number in (4, 5, 7)] == ["is not known to the worker", "", ""]
    one.forget(["r5", "r6", "r7", "nobody"])
    assert (one._requests, one._done, one._run._sequences, one._run.recorders._recorders) == ({}, {}, {}, {})


def test_rows_and_traces_arrive_as_they_were_sent() -> None:
    """To the bit, with other names for other content."""
    payments = load(shipped_file("payments"))
    for wanted in (Wanted((payments,), {"payments": ("asked",)}, 3), CLAMP, Wanted()):
        found = unpacked_wanted(packed_wanted(wanted))
        assert found == wanted
        assert row_name(found) == row_name(wanted)
    assert len({row_name(one) for one in (CLAMP, HELD, CLAMP._replace(watch={}), CLAMP._replace(top_k=1))}) == 4
    site = Site(1, "mlp_out")
    trace = Trace(
        watched={"a": (0.1, -0.0, 1e-30), "b": ()},
        features={"a": Feature(site, 7)},
        top=(TopK(site, 2, 1, 1, b"\x01\x00", b"\x00\x3c"),),
        edits=(Edit("rule", "policy", site, (1, 2), 0.5),),
    )
    assert unpacked_trace(packed_trace(trace)) == trace


def test_engines_are_named_and_settings_are_of_one() -> None:
    """Before a model is loaded."""
    with pytest.raises(ModelError, match=r"engine: got 'vlm', expected 'transformers', 'vllm' or a Vllm"):
        steerkit.load("tiny", engine="vlm")  # type: ignore[arg-type]
    for setting, value in {"device": "cpu", "prefix_cache": False, "prepack": True, "graphs": False}.items():
        with pytest.raises(ModelError, match=f"{setting}: got {value!r}, which is of engine 'transformers' alone"):
            steerkit.load("tiny", engine="vllm", **{setting: value})  # type: ignore[arg-type]


def test_vllm_must_be_there_in_the_version_that_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each."""
    if find_spec("vllm") is None:
        with pytest.raises(MissingExtraError, match=r"engine 'vllm' needs the extra 'vllm'.*transformers is always"):
            steerkit.load("tiny", engine="vllm")
    monkeypatch.setattr(arguments, "find_spec", lambda name: object())
    monkeypatch.setattr(arguments, "version", lambda name: version("torch") if name == "torch" else "0.33.1")
    with pytest.raises(ModelError, match=r"got vLLM 0\.33\.1, expected 0\.32, which"):
        VllmEngine(load_model("tiny", prepack=False))


def test_a_set_without_a_folder_cannot_be_sent() -> None:
    """Workers read SAEs from files."""
    with pytest.raises(SaeError, match=r"planted: got a set that lies in no single folder"):
        arguments.engine_arguments(load_model("tiny", prepack=False), SAES, None, Vllm())


def test_arguments_are_those_of_vllm() -> None:
    """Each becomes what it is; others, wrong values, and those of another engine are named in one line."""
    found = read_settings(["max_num_seqs=64", "enforce_eager=false", "gpu_memory_utilization=0.5"])
    assert found == Vllm(max_num_seqs=64, enforce_eager=False, gpu_memory_utilization=0.5)
    for wrong, said in {"max_num_seq=1": "expected NAME=VALUE of max_num_seqs", "block_size": "expected NAME=VALUE",
                        "max_num_seqs=many": "max_num_seqs: got 'many'"}.items():  # fmt: skip
        with pytest.raises(SettingError, match=said):
            read_settings([wrong])
    with pytest.raises(SettingError, match=r"expected --engine vllm beside it"):
        serve_command(vllm=["block_size=16"])
