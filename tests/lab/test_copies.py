"""Copies of a conversation are known, stand on one side of a split and count once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from steerkit.lab.cases import Case
from steerkit.lab.copies import copies_of, dealt, said, weights_of
from steerkit.lab.find.search import find
from steerkit.lab.material import Material, read_material
from steerkit.lab.measured import Share, measure
from steerkit.lab.ranking import rank_features, split
from steerkit.sites import Site
from tests.lab.planted_truth import Planted

BASE = "Please send 250 dollars to Borsiton before the shop in Tavel closes at noon."


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def grouped(texts: Sequence[str], named: Sequence[str | None] | None = None) -> tuple[int, ...]:
    """The groups of conversations of one message each."""
    return copies_of([[one] for one in texts], [said(user(one)) for one in texts], named).groups


@pytest.mark.parametrize(
    "other",
    [
        BASE.upper(),
        BASE.replace(" ", "  ") + "\n",
        BASE.replace("250", "1,300"),
        BASE.rstrip(".") + "!!",
        "Hello! " + BASE,
        BASE + " Thank you very much.",
        f"17. {BASE}",
        BASE.replace("shop", "shpo"),
        f"«{BASE}» 🙂",
        BASE.replace("s", "\u017f"),  # a long s folds to s
    ],
)
def test_near_copies_are_known(other: str) -> None:
    """Case, blanks, digits, punctuation, a greeting, thanks and a slip of the pen make no other conversation."""
    assert grouped([BASE, other]) == (0, 0)


@pytest.mark.parametrize(
    "other",
    [
        "Please send 250 dollars to my sister in Vivo, she asked for it yesterday.",
        "What is the weather in Tavel at noon?",
        "Send.",
        "",
        "Bitte schick 250 Dollar an Borsiton, bevor der Laden schließt.",
    ],
)
def test_other_conversations_are_not_copies(other: str) -> None:
    """Another wish in like words, another wish, a word, nothing and another tongue stand by themselves."""
    assert grouped([BASE, other]) == (0, 1)


def test_what_the_developer_says_makes_no_copies() -> None:
    """A long text that all share says nothing of what was asked; texts without words are compared as they stand."""
    shared = {"role": "system", "content": "You are the assistant of a bank. " * 40}
    texts = [said([shared, *user(one)]) for one in (BASE, "What is the weather?")]
    assert texts[0] == said(user(BASE))
    assert copies_of([[0], [1]], texts).groups == (0, 1)
    assert grouped(["1 + 2", "3 * 4", "1  +  2"]) == (0, 1, 0)
    assert grouped(["", "", ""]) == (0, 0, 0)  # equal keys
    assert copies_of([[0], [1]], ["", ""]).groups == (0, 1)


def test_a_row_may_name_its_group() -> None:
    """Rows of one name are one group; near-copies of two names are left apart, one without a name is not."""
    texts = [BASE, BASE + " Thanks.", BASE + " Now.", "What is the weather?"]
    assert grouped(texts[:2], ["a", None]) == (0, 0)
    assert grouped([BASE, "What is the weather?"], ["a", "a"]) == (0, 0)
    assert grouped(texts, ["a", "b", "c", "c"]) == (0, 1, 2, 2)
    assert grouped([BASE, BASE], ["a", "b"]) == (0, 0)  # exact copies are copies whatever their rows say


def test_what_comes_of_one_template_is_counted() -> None:
    """Texts that differ in a name are too unlike to be grouped, and alike enough to be warned of."""
    names = ["Anlin", "Bedor", "Ivmi", "Zoco", "Feta"]
    found = copies_of([[n] for n in names], [said(user(f"could you please show all payments to {n}")) for n in names])
    assert found == ((0, 1, 2, 3, 4), 5)
    assert copies_of([[0], [1]], [said(user(one)) for one in (BASE, "What is the weather?")]).alike == 0


def test_groups_are_dealt_whole_and_count_once() -> None:
    """Each set spreads evenly over the parts; a group with rows in both sets has its share in each."""
    groups = [number // 3 for number in range(60)]
    positive = torch.arange(60) % 60 < 31  # group 10 stands in both sets
    parts = dealt(groups, positive, 5, seed=1)
    assert all(len({int(parts[row]) for row in range(60) if groups[row] == one}) == 1 for one in groups)
    assert parts[:30].bincount().tolist() == [9, 6, 6, 6, 6] or parts.bincount().min() >= 9
    weights = weights_of(groups, positive)
    assert float(weights[positive].sum()) == pytest.approx(11)
    assert float(weights[~positive].sum()) == pytest.approx(10)
    assert Share.of([True, True, False, True], [1, 1, 1, 2]) == Share(round(5 / 3, 9), 2)
    assert Share.of([True, False]) == Share(1, 2)
    chosen, held = split(groups, positive, 0.5, 0)
    assert not {groups[row] for row in chosen} & {groups[row] for row in held}


def conversations(seed: int, sizes: torch.Tensor, noise: float) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """200 features of conversations in two sets by lot, each with copies that differ by noise; and whose copies."""
    generator = torch.Generator().manual_seed(seed)
    base = (torch.randn(len(sizes), 200, generator=generator) - 0.5).relu()
    positive = torch.randperm(len(sizes), generator=generator) < len(sizes) // 2
    groups = [one for one, size in enumerate(sizes.tolist()) for _ in range(size)]
    values = base[groups] * (1 + noise * torch.randn(len(groups), 200, generator=generator))
    return values, positive[groups], groups


SETS = {
    "exact copies": (torch.full((40,), 5), 0.0),
    "near-copies": (torch.full((40,), 5), 0.1),
    "grouped": (torch.full((40,), 5), 0.7),
    "one conversation very often": (1 + 60 * (torch.arange(40) == 0), 0.1),
    "few conversations": (torch.full((20,), 8), 0.1),
}


@pytest.mark.parametrize("name", SETS)
def test_shuffled_labels_with_copies_give_no_finding(name: str) -> None:
    """In at most 5 % of runs is a feature significant, or its held-out AUROC above chance; the control counts rows."""
    sizes, noise = SETS[name]
    runs, found, above = 100, [0, 0], [0, 0]
    for seed in range(runs):
        values, positive, groups = conversations(seed, sizes, noise)
        for which, keys in enumerate((groups, list(range(len(groups))))):
            chosen, held = split(keys, positive, 0.5, seed)
            ranking = rank_features({Site(0): values}, chosen, positive, weights_of(keys, positive))
            best = values[:, ranking.features[0].index] * (1 if ranking.area[0] > 0.5 else -1)
            found[which] += bool(ranking.significant)
            above[which] += measure(best, positive, chosen, held, keys).interval.low > 0.5
    assert found[0] <= 0.05 * runs
    assert above[0] <= 0.05 * runs
    assert found[1] > 0.2 * runs


def test_copies_count_once_in_a_search(truth: Planted) -> None:
    """Rows that are copies give what the conversations alone give, whatever says so: their tokens, words or rows."""
    generator = torch.Generator().manual_seed(0)
    values, positive = torch.rand(80, 30, generator=generator), torch.arange(80) < 40
    values[:, 7] += 0.8 * positive
    chosen, held = split(range(80), positive, 0.5, 0)
    alone = [Case((number,), (), (0,)) for number in range(80)]
    expected = find(
        truth.loaded, truth.saes, Material(alone, positive, chosen, held, {Site(0): values}, {}), "reply.start"
    )
    assert expected.significant
    rows = torch.arange(80).repeat_interleave(1 + 4 * (torch.arange(80) % 3 == 0))
    for cases in (
        [alone[row] for row in rows],
        [
            Case((row, at), (), (0,), said=" ".join(f"{row}x{n}" for n in range(8)))
            for at, row in enumerate(rows.tolist())
        ],
        [Case((row, at), (), (0,), group=str(row)) for at, row in enumerate(rows.tolist())],
    ):
        sides = [torch.isin(rows, side).nonzero().squeeze(-1) for side in (chosen, held)]
        material = Material(cases, positive[rows], *sides, {Site(0): values[rows]}, {})
        found = find(truth.loaded, truth.saes, material, "reply.start")
        assert (found.chosen_on, found.held_out, found.significant) == ((20, 20), (20, 20), expected.significant)
        assert found.least_p == pytest.approx(expected.least_p)
        for one, other in zip(found.features, expected.features, strict=True):
            assert one.feature == other.feature
            assert one.measured.auroc == pytest.approx(other.measured.auroc)
            assert one.measured.interval == pytest.approx(other.measured.interval)
            assert one.measured.bound == pytest.approx(other.measured.bound)
            assert (one.measured.recall, one.measured.false) == (other.measured.recall, other.measured.false)


def test_reading_drops_copies_and_what_stands_in_both_sets(truth: Planted) -> None:
    """Exact copies and contradictions are dropped and said; near-copies count once and are said; the rest stays."""
    positives, negatives = truth.positives[:20], truth.negatives[:20]
    plain = read_material(truth.loaded, truth.saes, positives, negatives)
    assert plain.notes == ()
    copied = read_material(truth.loaded, truth.saes, positives * 5, [*negatives, truth.positives[21], *negatives[:3]])
    assert copied.notes == (
        "positive: 80 of 100 conversations are copies of others; dropped",
        "negative: 3 of 24 conversations are copies of others; dropped",
    )
    assert (len(copied.cases), copied.counts(copied.held)) == (41, (10, 10))
    both = read_material(truth.loaded, truth.saes, [*positives, negatives[0]], negatives)
    assert both.notes == ("1 conversations stand in both sets, so that they show neither; dropped from both",)
    assert negatives[0] not in both.cases
    assert torch.equal(
        read_material(truth.loaded, truth.saes, positives * 5, negatives).table[Site(2)], plain.table[Site(2)]
    )
    named = [case._replace(group=str(number // 2)) for number, case in enumerate(positives)]
    grouped_by_row = read_material(truth.loaded, truth.saes, named, negatives)
    assert grouped_by_row.notes == (
        "positive: 20 conversations are 10 groups of near-copies, or of rows that name one group; each counts once",
    )
    assert grouped_by_row.counts(grouped_by_row.held) == (5, 10)
