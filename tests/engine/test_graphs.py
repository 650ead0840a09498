"""Steps of fixed shape against `attach`: the same gates, activations and tokens under every kind of policy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import DynamicCache, StaticCache

from steerkit.agent import Runtime
from steerkit.chat import place_machine
from steerkit.engine import Batch, Graphs, Sampling, cache_name, generate
from steerkit.errors import PolicyError
from steerkit.policy import Policy
from steerkit.sae import SaeSet
from steerkit.sites import POINTS, Point, Site
from steerkit.steer import Fill, Plan, Recorder, StaticSteering, attach, compile_plan, pack_plan
from steerkit.testing import planted_policy, planted_saes, small_model
from tests.directions import adding, drawn, file_of
from tests.steer.test_gates import CONVERSATIONS, FEATURES, MODEL, SAES, TOKENIZER, cut, rules

GRAPHS = Graphs(MODEL)  # type: ignore[arg-type]
CPU = torch.device("cpu")
PROMPTS = [[5, 17, 301, 44], [8, 33, 2, 900, 5, 7, 7], [64, 1, 7]]
DIRECTIONS = adding(file_of(drawn(MODEL.config.hidden_size, "attn_out.1", "attn_out.2"))).directions
"""At two hook points, of which one may come before a gate is known and one after it."""


def told(plan: Plan, rows: Sequence[int], graphs: Graphs | None) -> tuple[Recorder, torch.Tensor]:
    """The conversations as a left-padded batch, their replies token by token; the recorder and the replies' logits."""
    prompts, replies = zip(*CONVERSATIONS, strict=True)
    length = max(map(len, replies))  # the shorter ones are said again
    batch = Batch.of(prompts, 0, CPU)
    width = batch.ids.shape[1]
    positions = (batch.mask.cumsum(-1) - 1).clamp(min=0)
    found = []
    machine = place_machine(TOKENIZER)
    with (
        torch.inference_mode(),
        attach(MODEL, plan, rows=rows, trace=[0, 1, 2], prompt_length=width, places=machine) as attached,
    ):
        recorder = attached.recorder
        cache = DynamicCache(config=MODEL.config)
        for start, end in pairwise([0, width - 1, width]):
            how = {"attention_mask": batch.mask[:, :end], "position_ids": positions[:, start:end]}
            found.append(MODEL(batch.ids[:, start:end], **how, **{cache_name(MODEL): cache}).logits[:, -1])
        reader = None
        if graphs is not None:
            reader, _ = graphs.resume(attached.prefill_state, cache, batch.mask, positions[:, -1:], length)
            assert reader is not None, graphs.refused
        for number in range(length):
            tokens = [reply[number % len(reply)] for reply in replies]
            if reader is not None:
                found.append(reader.step(tokens).clone())
                continue
            mask = torch.cat([batch.mask, batch.mask.new_ones(3, number + 1)], dim=1)
            how = {"attention_mask": mask, "position_ids": positions[:, -1:] + number + 1}
            found.append(MODEL(torch.tensor(tokens).unsqueeze(-1), **how, **{cache_name(MODEL): cache}).logits[:, -1])
        if reader is not None:
            reader.close()
    return recorder, torch.stack(found[1:])


def same(plan: Plan, rows: Sequence[int], graphs: Graphs = GRAPHS) -> Recorder:
    """Both ways agree on every open rule, every activation and every logit."""
    eager, logits = told(plan, rows, None)
    fixed, fixed_logits = told(plan, rows, graphs)
    assert torch.allclose(logits, fixed_logits, atol=2e-4)
    for layer in range(3):
        assert torch.allclose(eager.raw(layer), fixed.raw(layer), atol=1e-5)
    opened = fixed.opened()
    for layer, expected in eager.opened().items():
        assert torch.equal(expected, opened[layer])
    assert (eager.length, eager.forwards, eager.fired) == (fixed.length, fixed.forwards, fixed.fired)
    assert all(torch.equal(eager.columns(row), fixed.columns(row)) for row in range(3))
    return fixed


@st.composite
def policies(draw: st.DrawFn) -> tuple[Policy, ...]:
    """None, or one or two policies whose rules hold, latch, look back, act late, in shadow or not."""
    found = []
    for number in range(draw(st.integers(0, 2))):
        rule, layer = draw(rules())
        features = {**FEATURES, "edited": (layer, 11)}
        edit = draw(
            st.sampled_from([{"clamp": 30.0}, {"scale": 2.0}, {"ablate": True}, {"shift": -4.0}, {"cap": 0.01}])
        )
        edits: dict[str, Any] = {"edited": edit}
        if draw(st.booleans()):
            edits["away"] = {"add": draw(st.sampled_from([1.0, -30.0]))}
        mode = draw(st.sampled_from(["enforce", "enforce", "shadow"]))
        try:
            policy = planted_policy(
                f"p{number}", features, mode=mode, directions=DIRECTIONS, steer=[{**rule, "edit": edits}]
            )
            compile_plan([[policy]], SAES)
        except (ValueError, PolicyError) as error:  # test_gates draws rules that can never act or open as well
            if not any(text in str(error) for text in ("can never act", "cannot act in the prompt", "can never open")):
                raise
            continue
        found.append(policy)
    return tuple(found)


@given(drawn=st.lists(policies(), min_size=3, max_size=3))
@settings(deadline=None, max_examples=40)
def test_steps_of_fixed_shape_equal_attach(drawn: list[tuple[Policy, ...]]) -> None:
    """Whatever the policies of three rows remember and do, prompts read by `attach` go on alike."""
    plan = compile_plan(drawn, SAES)
    same(plan, [plan.row(held) for held in drawn])


def test_the_drawn_policies_act() -> None:
    """Among what is drawn are rules that remember and write at tokens of the reply."""

    def acts(held: tuple[Policy, ...]) -> bool:
        plan = compile_plan([held], SAES)
        if not plan.remembers or not all(rule.writes for rule in plan.rules):
            return False
        opened = told(plan, [1, 0, 1], GRAPHS)[0].opened()
        return any(bool(part[0, -3:].any()) for part in opened.values())

    assert find(policies(), acts, settings=settings(deadline=None, max_examples=300))


@pytest.mark.parametrize("place", ["any", "call", "text"])
def test_latches_count_their_place_alone(place: str) -> None:
    """Hysteresis is set and ended by the tokens of its place, whatever others show in between."""
    rows = []
    for number, feature in enumerate(sorted(FEATURES)):
        gate = {"feature": feature, "above": cut(feature, 0.8), "off_below": cut(feature, 0.2), "at": place}
        rule = {"name": "r", "when": gate, "where": "any"}
        features = {**FEATURES, "edited": (2, 11)}
        steer = [{**rule, "edit": {"edited": {"shift": 0.001}}}]
        rows.append((planted_policy(f"p{number}", features, steer=steer),))
    plan = compile_plan(rows, SAES)
    for first in (1, 4):
        recorder = same(plan, range(first, first + 3))
        opened = recorder.opened()[Site(2)][:, -20:]
        assert opened.any()
        assert not opened.all()


def test_a_late_rule_edits_every_layer_by_what_was_before() -> None:
    """A gate that reads the top opens its rule from the next token on, at the top as well."""
    features = {"low": (0, 11), "top": (2, 11), "g": (2, 7)}
    edit = {"low": {"shift": 0.02}, "top": {"shift": 0.02}}
    rule = {"name": "r", "when": {"feature": "g", "above": cut("l2_7", 0.5)}, "where": "reply", "edit": edit}
    plan = compile_plan([(planted_policy("p", features, steer=[rule]),)], SAES)
    assert plan.has_late_rules
    opened = same(plan, [1, 1, 1]).opened()
    assert torch.equal(opened[Site(0)], opened[Site(2)])
    assert opened[Site(0)][..., 1].any()
    assert not opened[Site(0)][:, -5:, 1].all()


def test_what_is_not_touched_keeps_even_the_sign_of_zero() -> None:
    """Adding nothing would turn -0.0 into 0.0."""
    model = small_model()
    plan = compile_plan([(clamp(30.0, when={"feature": "g", "above": 1e6}),), (clamp(30.0),)], planted_saes(model))
    steering = StaticSteering(model, pack_plan(plan).needs, 2, 4)
    Fill(steering, pack_plan(plan), [1, 2])
    y = torch.full((2, 1, 32), -0.0)
    steering.begin()
    for site in steering.sites.values():
        out = steering.step(site, y)
        if out is not None:
            assert torch.equal(out[0].signbit(), y[0].signbit())
    assert out is None or not torch.equal(out[1], y[1])


def test_a_wrong_memory_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison fails where what gates remember of the prompt is not handed over."""
    when = {"feature": "l0_3", "above": -1.0, "at": "tool_result"}
    rule = {"name": "r", "when": when, "for": "turn", "where": "reply", "edit": {"edited": {"clamp": 30.0}}}
    plan = compile_plan([[planted_policy("p", {**FEATURES, "edited": (1, 11)}, steer=[rule])]], SAES)
    assert same(plan, [1, 0, 1]).opened()[Site(1)][0, -5:, 1].all()
    monkeypatch.setattr("steerkit.steer.static.fill.Fill._recall", lambda *args: None)
    with pytest.raises(AssertionError):
        same(plan, [1, 0, 1])


def clamp(value: float, *, layer: int = 1, index: int = 3, point: Point = "attn_out", **rule: Any) -> Policy:
    steer = [{"name": "clamp", "where": "any", "edit": {"f": {"clamp": value}}, **rule}]
    return planted_policy("p", {"f": (Site(layer, point), index), "g": (Site(0, point), 5)}, steer=steer)


def replies(
    model: nn.Module, saes: SaeSet, held: Sequence[tuple[Policy, ...]], graphs: Graphs | None, tokens: int = 30
) -> tuple[list[list[int | None]], Recorder]:
    plan = compile_plan(held, saes)
    batch = Batch.of(PROMPTS[: len(held)], 0, next(model.parameters()).device)
    rows, limits = [plan.row(one) for one in held], [Sampling(max_new_tokens=tokens)] * len(held)
    with attach(model, plan, rows=rows, trace=list(saes), prompt_length=batch.ids.shape[1]) as attached:
        recorder = attached.recorder
        how: dict[str, Any] = {} if graphs is None else {"graphs": graphs, "prefill_state": attached.prefill_state}
        return list(generate(model, batch, limits, (), 0, **how)), recorder  # type: ignore[arg-type]


def test_a_change_of_policies_prepares_nothing() -> None:
    """Other policies of the same size run on the step that is there; a larger one makes room once, for both."""
    model = small_model()
    saes, graphs = planted_saes(model), Graphs(model)  # type: ignore[arg-type]
    large = clamp(-30.0, layer=2, when={"feature": "g", "above": 0.0, "max_over": 3}, **{"for": "3 tokens"})
    seen = []
    for held in ([(clamp(30.0),), ()], [(), (clamp(-20.0, index=9),)], [(large,), ()], [(clamp(30.0),), (large,)]):
        expected, _ = replies(model, saes, held, None)
        found, _ = replies(model, saes, held, graphs)
        assert found == expected
        seen.append((str(found), graphs.statistics.captures))
    assert [captures for _, captures in seen] == [1, 1, 2, 2]
    assert len({text for text, _ in seen}) == 4
    assert graphs.statistics == (2, 4, 0)


def test_a_row_without_policies_keeps_its_bits() -> None:
    """An idle row beside a steered one has the activations that it has where nobody is steered, to the bit."""
    model = small_model()
    saes, graphs = planted_saes(model), Graphs(model)  # type: ignore[arg-type]
    beside, recorder = replies(model, saes, [(clamp(30.0),), ()], graphs)
    alone, plain = replies(model, saes, [(), ()], graphs)
    for layer in range(3):
        assert torch.equal(recorder.raw(layer)[1], plain.raw(layer)[1])
    assert [step[1] for step in beside] == [step[1] for step in alone]
    assert [step[0] for step in beside] != [step[0] for step in alone]


def test_sliding_windows_are_rings() -> None:
    """Far beyond the window of sliding layers the tokens are those of transformers' own cache."""
    model = small_model(sliding_window=8)
    saes, graphs = planted_saes(model), Graphs(model)  # type: ignore[arg-type]
    held = [(clamp(20.0),), (), (clamp(-20.0),)]
    assert "sliding_attention" in model.config.layer_types
    assert replies(model, saes, held, graphs, 60)[0] == replies(model, saes, held, None, 60)[0]


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "gated"])
@pytest.mark.parametrize("point", POINTS)
def test_every_kind_and_site_of_sae(kind: Any, point: Point) -> None:
    """SAEs of every kind whose features stand alone, at every hook point."""
    model = small_model()
    saes = planted_saes(model, kind=kind, points=[point], subtract_b_dec=True)
    graphs = Graphs(model)  # type: ignore[arg-type]
    held = [(clamp(20.0, point=point, when={"feature": "g", "below": 0.02}),), ()]
    expected, recorder = replies(model, saes, held, None)
    found, fixed = replies(model, saes, held, graphs)
    assert found == expected != replies(model, saes, [(), ()], None)[0]
    assert torch.equal(recorder.opened()[Site(1, point)], fixed.opened()[Site(1, point)])
    assert graphs.statistics == (1, 1, 0)


def test_what_does_not_fit_goes_on_as_ever() -> None:
    """A TopK SAE and a reconstruction are steered step by step, and the reason is told."""
    model = small_model()
    graphs = Graphs(model)  # type: ignore[arg-type]
    whole = planted_saes(model, kind="topk")
    expected = replies(model, whole, [(clamp(30.0),)], None)[0]
    assert replies(model, whole, [(clamp(30.0),)], graphs)[0] == expected
    assert graphs.refused is not None
    assert "layer 1: a TopK SAE needs the whole dictionary" in graphs.refused
    saes = planted_saes(model)
    steer = [{"name": "r", "where": "any", "edit": {"f": {"clamp": 3.0}}}]
    rebuilt = planted_policy("p", {"f": (1, 3)}, steer=steer, write_back="reconstruction")
    assert replies(model, saes, [(rebuilt,)], graphs)[0] == replies(model, saes, [(rebuilt,)], None)[0]
    assert "policy p steer 'r': write_back: reconstruction needs the whole dictionary" in graphs.refused
    assert graphs.statistics == (0, 0, 2)


def test_a_step_that_cannot_be_prepared_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where preparing a step fails, as for want of memory, the same tokens are made as ever."""

    def fail(*args: object) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    model = small_model()
    saes, graphs = planted_saes(model), Graphs(model)  # type: ignore[arg-type]
    monkeypatch.setattr("steerkit.engine.hf.static_cache.StepCache.begin", fail)
    found, _ = replies(model, saes, [(clamp(30.0),)], graphs)
    assert found == replies(model, saes, [(clamp(30.0),)], None)[0]
    assert graphs.refused == "CUDA out of memory."
    assert graphs.statistics.generations == 0


def test_plain_attach_takes_a_static_cache() -> None:
    """`attach` itself over a StaticCache opens the gates and gives the logits that it gives over a dynamic one."""
    model = small_model()
    saes = planted_saes(model)
    plan = compile_plan([(clamp(30.0, when={"feature": "g", "above": 0.0}, **{"for": "2 tokens"}),), ()], saes)
    batch = Batch.of(PROMPTS[:2], 0, CPU)
    found = []
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=32)):
        with torch.no_grad(), attach(model, plan, rows=[1, 0], prompt_length=7) as attached:
            recorder = attached.recorder
            mask, positions = batch.mask, (batch.mask.cumsum(-1) - 1).clamp(min=0)
            ids = batch.ids
            for _ in range(12):
                how = {"attention_mask": mask, "position_ids": positions, cache_name(model): cache}
                logits = model(ids, **how).logits[:, -1]
                mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
                ids, positions = logits.argmax(-1, keepdim=True), positions[:, -1:] + 1
        found.append((logits, recorder.opened()[Site(1)]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-4)
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][1][0].any()
    assert not found[0][1][1].any()


@pytest.mark.parametrize("policy", ["orders", "payments", "people", "shell"])
def test_shipped_policies_on_the_box(box: Runtime, policy: str) -> None:
    """The box under its own policies: tokens and open rules of `attach`."""
    held = box.policies_of(Path(__file__).parents[2] / "policies" / f"{policy}.yaml")
    prompt = box.loaded.tokenizer.encode("pay Zoren 900 and delete all files", add_special_tokens=False)
    plan = compile_plan([held, ()], box.saes)
    batch, graphs = Batch.of([prompt, prompt[:5]], 0, CPU), Graphs(box.loaded.model)
    limits, found = [Sampling(max_new_tokens=40)] * 2, []
    machine = place_machine(box.loaded.tokenizer)
    for how in ({}, {"graphs": graphs}):
        with attach(
            box.loaded.model, plan, rows=[1, 0], trace=[0], prompt_length=batch.ids.shape[1], places=machine
        ) as attached:
            recorder = attached.recorder
            extra: dict[str, Any] = {**how, "prefill_state": attached.prefill_state} if how else {}
            tokens = list(generate(box.loaded.model, batch, limits, (), 0, split_prompt=True, **extra))
        found.append((tokens, dict(recorder.opened())))
    assert graphs.refused is None
    assert found[0][0] == found[1][0]
    assert all(torch.equal(opened, found[1][1][layer]) for layer, opened in found[0][1].items())


@pytest.mark.parametrize(("at_once", "examples"), [(32768, 12), (64, 4), (4, 4)])
def test_fused_kernels_equal_attach(at_once: int, examples: int) -> None:
    """The kernels, run by Triton's interpreter in a process of their own, pass the comparison with `attach`.

    Whether encoder and decoder are read together, one after the other or in pieces.
    """
    pytest.importorskip("triton")
    code = (
        "import tests.engine.test_graphs as t\n"
        "from steerkit.steer.static import triton_step as fused\n"
        "t.GRAPHS.kernels = fused\n"
        f"fused._MOST_AT_ONCE, fused._PIECE, fused._LEAST_PIECE = {at_once}, 8, 2\n"
        f"@t.settings(deadline=None, max_examples={examples})\n"
        "@t.given(t.st.lists(t.policies(), min_size=3, max_size=3))\n"
        "def compare(drawn):\n"
        "    plan = t.compile_plan(drawn, t.SAES)\n"
        "    t.same(plan, [plan.row(held) for held in drawn])\n"
        "compare()\n"
        "t.test_a_change_of_policies_prepares_nothing()\n"
        "assert t.GRAPHS.statistics.generations\n"
        "assert t.GRAPHS.kernels is fused, t.GRAPHS.without_kernels\n"
        "room = next(iter(t.GRAPHS._steps.values())).capacity\n"
        "tiles = fused._tiles(t.MODEL.config.hidden_size, room.features, True, True)\n"
        "print(tiles['WHOLE'], tiles['EARLY'])\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.split() == {32768: ["True", "True"], 64: ["True", "False"], 4: ["False", "False"]}[at_once]


def test_a_step_goes_without_kernels_that_cannot_be_built() -> None:
    """What a Triton of another version refuses is done without it, and equals `attach`; the control was tried first."""
    asked = []

    def refused(*given: Any) -> None:
        asked.append(given)
        raise TypeError("no such type")

    rule = {"name": "r", "where": "any", "edit": {"edited": {"clamp": 30.0}}}
    policy = planted_policy("p", {"edited": (1, 11)}, steer=[rule])
    graphs = Graphs(MODEL)  # type: ignore[arg-type]
    graphs.kernels = SimpleNamespace(begin=refused, step=refused)  # type: ignore[assignment]
    recorder = same(compile_plan([(policy,)], SAES), [1, 0, 1], graphs)
    assert recorder.opened()[Site(1)].any()
    assert len(asked) == 1
    assert graphs.kernels is None
    assert graphs.without_kernels == "they cannot be built: TypeError"
    assert graphs.statistics == (1, 1, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fused", [False, True])
def test_a_captured_graph_steers_under_policies_that_change(fused: bool) -> None:
    """On a GPU one capture serves other policies, with the tokens and the open rules of `attach`."""
    model = small_model().to("cuda")
    saes, graphs = planted_saes(model), Graphs(model, fused=fused)  # type: ignore[arg-type]
    kernels = graphs.kernels
    seen = set()
    for value in (30.0, -20.0, 10.0):
        held = [(clamp(value, when={"feature": "g", "above": 0.0, "max_over": 3}, **{"for": "3 tokens"}),), ()]
        expected, recorder = replies(model, saes, held, None)
        found, fixed = replies(model, saes, held, graphs)
        assert found == expected
        assert torch.equal(recorder.opened()[Site(1)], fixed.opened()[Site(1)])
        seen.add(str(found))
    assert len(seen) > 1
    assert graphs.statistics == (1, 3, 0)
    assert graphs.kernels is kernels
