"""Requests under different policies are each multiplied by their own features, and come out as they do alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from steerkit.engine import Batch
from steerkit.engine.hf.generate import read_along
from steerkit.policy import Policy
from steerkit.sae import Kind, SaeSet
from steerkit.sites import POINTS, Point, Site
from steerkit.steer import Plan, attach, compile_plan
from steerkit.steer import gather as gathering
from steerkit.steer.gather import gather
from steerkit.testing import planted_policy, planted_saes, small_model

PROMPTS = [[5, 17, 301, 44, 9], [8, 33, 2], [64, 1, 7, 7, 512, 230, 11], [3, 90]]
BATCH = Batch.of(PROMPTS, 0, torch.device("cpu"))
WIDTH = BATCH.ids.shape[1]
REPLY = [3 + 71 * number % 900 for number in range(12)]


def policy(number: int, point: Point = "attn_out") -> Policy:
    """Clamps, scales and caps of its own features, more of them the higher the number, plain and behind gates."""
    many = range(2 + number)
    features = {f"l{layer}_{n}": (Site(layer, point), 16 * number + n) for layer in range(3) for n in many}
    clamp = {f"l1_{n}": {"clamp": 3.0 + n} for n in many}
    opens, closes = {"feature": "l0_0", "above": 0.002}, {"feature": "l1_1", "below": 0.01}
    rules = [
        {"name": "plain", "where": "any", "edit": clamp},
        {
            "name": "gated",
            "where": "reply",
            "when": opens,
            "edit": {"l2_0": {"scale": 9}},
        },
        {"name": "below", "where": "any", "when": closes, "edit": {"l2_1": {"cap": 0.001}}},
    ]
    return planted_policy(f"p{number}", features, steer=rules)


def also(number: int, point: Point = "attn_out") -> Policy:
    """A second policy that edits a feature of `policy(number)` as well, and one of its own."""
    features = {"same": (Site(1, point), 16 * number), "more": (Site(1, point), 16 * number + 9)}
    edit = {"same": {"clamp": 50.0}, "more": {"clamp": 4.0}}
    return planted_policy(f"also{number}", features, steer=[{"name": "second", "where": "any", "edit": edit}])


Held = Sequence[tuple[Policy, ...]]


def held_at(point: Point = "attn_out") -> Held:
    """The policies of each request, with their features at a hook point."""
    return [(policy(0, point),), (policy(1, point), also(1, point)), (policy(3, point),), ()]


HELD = held_at()


def together(model: nn.Module, plan: Plan, policies: Held = HELD) -> tuple[Tensor, list[dict[Site, Tensor]]]:
    """Logits `(steps, B, vocabulary)` of all requests in one batch, and by request which rules acted by site."""
    rows = [plan.row(held) for held in policies]
    with attach(model, plan, rows=rows, prompt_length=WIDTH) as attached:
        recorder = attached.recorder
        found = torch.stack(list(read_along(model, BATCH, REPLY)))  # type: ignore[arg-type]
    acted = [{site: part[b, recorder.columns(b)] for site, part in recorder.opened().items()} for b in range(len(rows))]
    return found, acted


def alone(model: nn.Module, saes: SaeSet, number: int, policies: Held = HELD) -> tuple[Tensor, dict[Site, Tensor]]:
    """The same of one request by itself."""
    plan, prompt = compile_plan([policies[number]], saes), PROMPTS[number]
    with attach(model, plan, prompt_length=len(prompt)) as attached:
        recorder = attached.recorder
        batch = Batch.of([prompt], 0, torch.device("cpu"))
        found = torch.cat(list(read_along(model, batch, REPLY)))  # type: ignore[arg-type]
    return found, {site: part[0] for site, part in recorder.opened().items()}


@pytest.mark.parametrize("apart", [True, False], ids=["own columns", "shared columns"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kind", ["relu", "jumprelu", "gated"])
def test_a_batch_of_policies_equals_its_single_runs(
    kind: Kind, point: Point, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether each request has its own columns or all share them; in either way the policies differ in what they do."""
    model = small_model()
    saes, policies = planted_saes(model, kind=kind, points=[point]), held_at(point)
    plan = compile_plan(policies, saes)
    monkeypatch.setattr(gathering, "READ" if apart else "_MOST_BYTES", 0)
    rows = [plan.row(held) for held in policies]
    assert {gather(table, rows).sets for table in plan.sites.values()} == {len(policies) if apart else 1}
    found, acted = together(model, plan, policies)
    unsteered, _ = alone(model, saes, 3, policies)
    for number, held in enumerate(policies):
        expected, by_site = alone(model, saes, number, policies)
        assert torch.allclose(found[:, number], expected, atol=2e-4)
        columns = [n for n, rule in enumerate(plan.rules, start=1) if held and rule.row == plan.row(held)]
        for site, mine in by_site.items():
            assert torch.equal(acted[number][site][:, columns], mine[:, 1:])
    assert not torch.allclose(found[:, 0], unsteered, atol=1e-2)
    opened = torch.stack([part.any() for part in acted[2].values()])
    assert bool(opened.any())


def test_a_uniform_batch_of_a_larger_plan_reads_its_own_features_alone() -> None:
    """Where all requests are under one of several policies, the others' features cost nothing and change nothing."""
    model = small_model()
    saes = planted_saes(model)
    large, small = compile_plan(HELD, saes), compile_plan([HELD[2]], saes)
    row = large.row(HELD[2])
    table = gather(large.sites[Site(1)], [row] * 4)
    assert (table.groups, table.sets, table.columns.W_enc.shape[2]) == (1, 1, len(small.sites[Site(1)].indices))
    found = []
    for plan, number in ((large, row), (small, 1), (small, 0)):
        with attach(model, plan, rows=[number] * 4, prompt_length=WIDTH):
            found.append(torch.stack(list(read_along(model, BATCH, REPLY))))  # type: ignore[arg-type]
    assert torch.allclose(found[0], found[1], atol=2e-4)
    assert not torch.allclose(found[0], found[2], atol=1e-2)


def test_columns_are_shared_where_many_requests_hold_few_policies() -> None:
    """Two policies of 32 requests, but not 32, and not two of two."""
    clamps = {f"l{n}": (1, n) for n in range(64)}
    held = []
    for n in range(32):
        edit = {f"l{2 * n}": {"clamp": 3.0}, f"l{2 * n + 1}": {"clamp": 2.0}}
        held.append((planted_policy(f"p{n}", clamps, steer=[{"name": "r", "where": "any", "edit": edit}]),))
    saes = planted_saes(small_model())
    for policies, requests, sharing in ((2, 32, 1), (32, 32, 32), (2, 2, 2)):
        plan = compile_plan(held[:policies], saes)
        assert gather(plan.sites[Site(1)], [1 + n % policies for n in range(requests)]).sets == sharing


def test_bits_are_kept_where_nothing_acts_for_many_tokens() -> None:
    """What holds for many tokens is asked once: where all act no token is looked at, where none does a -0.0 stays."""
    model = small_model()
    clamp = {"name": "r", "where": "any", "edit": {"f": {"clamp": 3.0}, "g": {"clamp": 2.0}}}
    plan = compile_plan([(planted_policy("p", {"f": (1, 4), "g": (1, 9)}, steer=[clamp]),)], planted_saes(model))
    lane = gather(plan.sites[Site(1)], [1])
    y = torch.full((1, 2, lane.columns.W_dec.shape[2]), -0.0)
    features = lane.read(y)
    for opens in ([True, True], [True, False], [False, False]):
        opened = torch.tensor([[False, one] for one in opens])
        opened_edits = lane.open(opened).checked()
        assert opened_edits.always == all(opens)
        bits = lane.write(y, y, features, opened_edits).view(torch.int32) == y.view(torch.int32)
        assert bits.all(dim=-1)[0].tolist() == [not one for one in opens]
