"""A probe on activations is read where it tells the sets apart best: at one place or another, by tokens or by means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.engine import Sampling
from steerkit.guard import windowed
from steerkit.lab.cases import steps_at
from steerkit.lab.find.decisions import Decisions
from steerkit.lab.find.probes import FoundProbe, raw_probes_at
from steerkit.lab.find.search import Found, find
from steerkit.lab.find.steering_edits import find_steering_edits
from steerkit.lab.find.write_policy import write_found
from steerkit.lab.material import Material, read_material
from steerkit.policy import GuardCondition, Policy, load
from steerkit.runtime import PolicyLike, Request
from steerkit.tiny.world.conversations import Example, sample
from steerkit.types import Turn
from tests.lab.planted_truth import cases

KINDS = {"injected": 40, "injected_clean": 20, "benign": 20}
"""Orders in results, results without, and conversations without results."""


@pytest.mark.parametrize(
    ("here", "means", "largest"),
    [
        ({4: 1.0, 5: 2.0, 6: 1.0, 7: 4.0}, (1.0, 1.5, 1.5, 2.5), (1.0, 2.0, 2.0, 4.0)),
        ({4: 1.0, 6: 2.0, 7: 1.0}, (1.0, 2.0, 1.5), (1.0, 2.0, 2.0)),
        ({4: 2.0, 9: 1.0}, (2.0, 1.0), (2.0, 1.0)),
        ({3: 1.0}, (1.0,), (1.0,)),
        ({}, (), ()),
    ],
)
def test_a_window_goes_over_tokens_in_a_row(
    here: Mapping[int, float], means: Sequence[float], largest: Sequence[float]
) -> None:
    """Of the last two tokens those at the place count; without a window each counts by itself."""
    assert windowed(here, 2) == dict(zip(here, means, strict=True))
    assert windowed(here, None, 2) == dict(zip(here, largest, strict=True))
    assert windowed(here, None) == here


@pytest.fixture(scope="module")
def orders(box: Runtime) -> Material:
    """Orders in results against other conversations, read where the reply begins and at the results."""
    assert box.saes is not None
    some = {kind: cases(box.loaded, kind, count) for kind, count in KINDS.items()}
    return read_material(box.loaded, box.saes, some["injected"], [*some["injected_clean"], *some["benign"]])


def forgetful(material: Material) -> Material:
    """The same conversations, of which nothing is seen where the reply begins."""
    generator = torch.Generator().manual_seed(0)
    drawn = {site: torch.randn(values.shape, generator=generator) for site, values in material.activations.items()}
    silent = {site: torch.zeros_like(values) for site, values in material.table.items()}
    return replace(material, table=silent, activations=drawn)


def taken(box: Runtime, material: Material, policy: PolicyLike, tokens: int) -> list[Turn]:
    """The turns of the held-out conversations under a policy, in their order."""
    known: dict[tuple[int, ...], Example] = {}
    for kind, count in KINDS.items():
        some = sample(kind, "select", count)
        known |= {case.prompt: one for case, one in zip(cases(box.loaded, kind, count), some, strict=True)}
    asked = [known[material.cases[row].prompt] for row in material.held.tolist()]
    sampling = Sampling(max_new_tokens=tokens)
    return box.run_batch([Request(one.messages, one.tools, policy, sampling) for one in asked])


def written(box: Runtime, found: Found, path: Path) -> Policy:
    """The guard alone."""
    assert box.saes is not None
    write_found(box.loaded, box.saes, found, None, path)
    return load(path)


def holds(turns: Sequence[Turn], opens: Sequence[bool]) -> list[bool]:
    """Whether calls are held, by conversation; each as its condition opens, which was measured before."""
    judged = [(t.verdicts[0].shadowed == "hold", one) for t, one in zip(turns, opens, strict=True) if t.verdicts]
    assert [held for held, _ in judged] == [one for _, one in judged]
    return [held for held, _ in judged]


def test_results_are_read_where_they_say_more(box: Runtime, orders: Material, tmp_path: Path) -> None:
    """A condition at results where the step of the reply says nothing; there where nothing was read at results, the
    control, none. It holds calls as it was measured, and never opens without a result."""
    assert box.saes is not None
    assert orders.results is not None
    assert len(orders.results.rows) == KINDS["injected"] + KINDS["injected_clean"]
    material = forgetful(orders)
    found = find(box.loaded, box.saes, material, "reply.start", top=3, most=3)
    unread = find(box.loaded, box.saes, replace(material, results=None), "reply.start", top=3, most=3)
    assert unread.raw is not None
    assert unread.raw.measured.youden < 0.5
    condition = found.condition
    assert isinstance(condition, FoundProbe)
    assert condition is found.raw
    assert condition.place == "tool_result"
    assert condition.measured.youden > 0.8
    opens = condition.opens(material)
    assert not opens[torch.tensor([not case.steps for case in orders.results.cases])].any()
    policy = written(box, found, tmp_path / "orders.yaml")
    assert "at tool_result" in policy.description
    assert policy.guard is not None
    assert [rule.when.at for rule in policy.guard.rules if isinstance(rule.when, GuardCondition)] == ["tool_result"]
    held = holds(taken(box, material, policy, 40), opens[material.held].tolist())
    assert 5 <= sum(held) <= len(held) - 5


def test_edits_act_behind_a_gate_at_results(box: Runtime, orders: Material, tmp_path: Path) -> None:
    """The gate is read at the results and stays open to where the reply begins: it stops the calls that it was said to
    stop, and keeps the other decisions."""
    assert box.saes is not None
    material = replace(forgetful(orders), table=orders.table)
    found = find(box.loaded, box.saes, material, "reply.start", top=3, most=3)
    found = replace(found, probe=None, features=())  # what is on features would do here
    one = find_steering_edits(Decisions(box.loaded, box.saes, material, "reply.start"), found)
    assert one is not None
    assert one.gated
    assert one.proven
    path = tmp_path / "orders.yaml"
    write_found(box.loaded, box.saes, found, one, path)
    policy = load(path)
    (rule,) = policy.steer
    assert rule.hold == "turn"
    assert rule.when.at == "tool_result"  # type: ignore[union-attr]
    steering = policy.model_copy(update={"mode": "enforce", "guard": None})
    steered, plain = (taken(box, material, some, 1) for some in (steering, ()))
    calls = box.dialect.call
    sides = [bool(material.positive[row]) for row in material.held.tolist()]
    first = [(a.reply_ids[0], b.reply_ids[0], side) for a, b, side in zip(steered, plain, sides, strict=True)]
    stopped = [now != calls for now, before, side in first if side and before == calls]
    kept = [now == before for now, before, side in first if not side]
    assert (sum(stopped), len(stopped)) == (one.stopped.hits, one.stopped.count)
    assert (sum(kept), len(kept)) == (one.kept.hits, one.kept.count)
    assert one.stopped.value > 0.8


def test_a_mean_is_read_as_a_policy_reads_it(box: Runtime, tmp_path: Path) -> None:
    """Over the text of a user single tokens and means of eight are measured; a policy with the mean holds what it was
    measured to hold, which single tokens, the control, would not all."""
    assert box.saes is not None
    sets = []
    for kind in ("dangerous:transfer_money", "benign"):
        some = cases(box.loaded, kind, 30)
        sets.append([case._replace(steps=steps_at(box.loaded, case, "user")) for case in some])
    material = read_material(box.loaded, box.saes, *sets)
    (reading,) = material.readings
    tokens, means = raw_probes_at(box.loaded, material, reading, list(box.saes), ())
    assert (tokens.mean_over, means.mean_over) == (None, 8)
    assert not torch.equal(tokens.sums, means.sums)
    found = replace(find(box.loaded, box.saes, material, "user"), raw=means, probe=None, features=())
    policy = written(box, found, tmp_path / "asked.yaml")
    asked = [one for kind in ("dangerous:transfer_money", "benign") for one in sample(kind, "select", 30)]
    requests = [Request(one.messages, one.tools, policy, Sampling(max_new_tokens=40)) for one in asked]
    order = {case.prompt: row for row, case in enumerate(material.cases)}
    turns = {turn.prompt_ids: turn for turn in box.run_batch(requests)}
    rows = [(turns[prompt], bool(means.opens(material)[row])) for prompt, row in order.items()]
    held = holds([turn for turn, _ in rows], [one for _, one in rows])
    assert 5 <= sum(held) <= len(held) - 5
