"""Failures inside the worker fail the requests that they concern, are said, and leave the server alive."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.agent import Runtime
from steerkit.engine import Vllm, read_settings
from steerkit.engine.vllm.arguments import engine_arguments
from steerkit.engine.vllm.llm import Llm
from steerkit.errors import ModelError, SettingError, SteeringError
from steerkit.policy import Policy, load, shipped_file
from steerkit.runtime import Request
from steerkit.sites import Site
from steerkit.steer import TABLE, find_sites
from steerkit.testing import planted_policy
from steerkit.tiny.demo_requests import CASES
from tests.vllm.conftest import SMALL, raw, runtime, worker

CASE = CASES[0]


def test_a_row_that_the_worker_does_not_hold_fails_its_request_alone(inside: Runtime, box: Runtime) -> None:
    """Text, a number, a list: each runs unsteered and is named, and the next request is served."""
    ids = inside.prepare(Request(CASE.messages, CASE.tools)).prompt.ids
    plain = box.run(CASE.messages, CASE.tools, ())
    for wrong in ("nobody's", 7, ["a"], {"b": 1}):
        found = raw(inside, ids, row=wrong, most=256)
        assert found.tokens == list(plain.reply_ids)
        assert "none of the worker's policies" in found.error
    assert inside.run(CASE.messages, CASE.tools, ()).reply_ids == plain.reply_ids


def test_a_hook_that_does_not_run_fails_the_batch(inside: Runtime) -> None:
    """The site is named, nothing is returned; with the hook back all is well."""
    module = find_sites(worker(inside).model_runner.get_model()).at(Site(2))
    hooks = dict(module._forward_hooks)
    module._forward_hooks.clear()
    try:
        with pytest.raises(SteeringError, match=r"request 1 of 1: layer 2: its o_proj ran 0 times in a pass"):
            inside.run(CASE.messages, CASE.tools, ())
    finally:
        module._forward_hooks.update(hooks)
    assert inside.run(CASE.messages, CASE.tools, ()).reply_ids


def test_an_error_under_steering_fails_the_batch(inside: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: the worker lives, and says it of the requests of that pass."""

    def wrong(site: Site, y: Any) -> None:
        raise ZeroDivisionError("by test")

    inside.run(CASE.messages, CASE.tools)
    monkeypatch.setattr(worker(inside).steering._run, "steer", wrong)
    with pytest.raises(SteeringError, match=r"could not be steered at layer 0: its o_proj: ZeroDivisionError: by test"):
        inside.run(CASE.messages, CASE.tools)
    monkeypatch.undo()
    assert inside.run(CASE.messages, CASE.tools).reply_ids


def test_hook_points_are_those_of_the_table(inside: Runtime) -> None:
    """Each layer has the points whose rows name vLLM, and no others."""
    points = {point for point, row in TABLE.items() if "vllm" in row.engines}
    assert {site.point for site in worker(inside).steering.sites} == points == {"attn_out", "mlp_out"}


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a gate above its edit": (
        {
            "policy": planted_policy(
                "late",
                {"low": (0, 3), "high": (2, 3)},
                steer=[
                    {
                        "name": "r",
                        "where": "reply",
                        "when": {"feature": "high", "above": 0.0, "at": "any"},
                        "edit": {"low": {"clamp": 1.0}},
                    }
                ],
            )
        },
        SteeringError,
        "its gate reads a higher layer than it edits",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_engine_does_not_do_is_refused_in_one_line(inside: Runtime, what: str) -> None:
    """Before anything runs."""
    how, kind, said = REFUSED[what]
    with pytest.raises(kind, match=said) as caught:
        inside.run(CASE.messages, CASE.tools, **how)
    assert "\n" not in str(caught.value)


def test_logits_are_refused(inside: Runtime) -> None:
    """Those along a reply are of the other engine."""
    with pytest.raises(ModelError, match="gives no logits along a reply"):
        list(inside.engine.logits_along([], []))


def test_a_model_that_vllm_cannot_run_so_is_said_in_one_line(tmp_path: Any) -> None:
    """A cache too small for the context, in vLLM's own words."""
    with pytest.raises(ModelError, match=r"^tiny: vLLM cannot load the model: ValueError: ") as caught:
        runtime(tmp_path, kv_cache_memory_bytes=1 << 16)
    assert "\n" not in str(caught.value)


def test_drafts_are_refused_by_name(box: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an argument of `Vllm` nor, where it reaches vLLM, followed by the worker: policies that remember would
    have to roll back."""
    with pytest.raises(SettingError, match=r"got 'speculative_config=2', expected NAME=VALUE of max_num_seqs"):
        read_settings(["speculative_config=2"])
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    given = engine_arguments(box.loaded, box.saes, None, Vllm(**SMALL))
    drafts = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
    with pytest.raises(ModelError, match=r"^vllm: speculative_config: steerkit's worker does not follow it"):
        Llm("tiny", {**given, "speculative_config": drafts})


def test_more_policies_come_while_the_engine_runs(inside: Runtime, box: Runtime) -> None:
    """One after the other, more than the worker holds, each as in the other engine."""
    shell = load(shipped_file("shell"))
    for number in range(40):
        policy: Policy = shell.model_copy(update={"name": f"shell{number}"})
        found = inside.run(CASE.messages, CASE.tools, policy, max_new_tokens=1)
        if number % 13 == 0:
            assert found.reply_ids == box.run(CASE.messages, CASE.tools, policy, max_new_tokens=1).reply_ids
    assert len(worker(inside).steering._rows) <= 32
