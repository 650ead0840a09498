"""The arithmetic of steering, without a model."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.sae import Columns, Sae
from steerkit.steer import ops
from steerkit.steer.batch import Segments

CPU = torch.device("cpu")
ON = torch.ones(1, 1, dtype=torch.bool)


def change(f: float, scale: float, shift: float, floor: float = -torch.inf, ceiling: float = torch.inf) -> float:
    """What one feature of value `f` becomes, by the one formula."""
    features, scales, shifts, low, high = (torch.tensor([[number]]) for number in (f, scale, shift, floor, ceiling))
    found = f + float(ops.feature_change(features, ON, scales, shifts, (low, high)))
    if (floor, ceiling) == (-torch.inf, torch.inf):
        assert found == f + float(ops.feature_change(features, ON, scales, shifts, None))
        assert found == f + float(ops.feature_change(features, None, scales, shifts, None))
    if scale == 0:
        assert found == f + float(ops.feature_change(features, ON, None, shifts, (low, high)))
    return found


def test_every_edit_is_one_formula() -> None:
    """Clamp, ablate, boost, cap and floor are settings of f' = clip(scale * f + shift, floor, ceiling)."""
    assert change(2.0, 0, 5) == 5
    assert change(2.0, 0, 0) == 0
    assert change(2.0, 3, 0) == 6
    assert change(2.0, 1, 1.5) == 3.5
    assert change(2.0, 1, 0, ceiling=1) == 1
    assert change(2.0, 1, 0, floor=4) == 4
    assert change(2.0, 1, 0) == 2


@given(f=st.floats(0, 100, width=32), value=st.floats(-100, 100, width=32))
@settings(deadline=None)
def test_clamping_twice_is_clamping_once(f: float, value: float) -> None:
    """A clamp's result is a fixed point of the clamp."""
    once = change(f, 0, value)
    assert abs(change(once, 0, value) - once) <= 1e-4


def test_an_untouched_token_keeps_its_bits_even_a_negative_zero() -> None:
    """A token without a change is selected, not added to; the control shows that adding zero loses the sign."""
    y = torch.tensor([[-0.0, 1.0], [-0.0, 1.0]])
    tokens = torch.tensor([[[False], [True]]])
    out = ops.write_grouped(y[None], y[None], torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0, 0.0]]]), tokens)[0]
    assert torch.equal(out[0].view(torch.int32), y[0].view(torch.int32))
    assert float(out[1, 0]) == 2.0
    assert not torch.equal((y + 0.0).view(torch.int32), y.view(torch.int32))


def test_a_reading_holds_strictly_between_its_bounds() -> None:
    """`above` and `below` are strict and the right way round; what is no number holds nowhere."""
    sums = torch.tensor([[1.0], [1.5], [2.0], [torch.nan]])
    holds = ops.within(sums, torch.tensor([1.0]), torch.tensor([2.0]))
    assert holds.squeeze().tolist() == [False, True, False, False]


def test_terms_are_any_of_all() -> None:
    """A gate opens where one of its terms has every reading it wants and none it does not."""
    # Two readings; the first gate wants a and not b, the second a or b.
    wanted = torch.tensor([[1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    terms = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    holds = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
    opened = ops.any_term(holds, wanted, (wanted > 0).sum(dim=0).float(), terms)
    assert opened.tolist() == [[False, False], [True, True], [False, True], [False, True]]


def test_hysteresis_opens_and_closes_once() -> None:
    """Open from the opening on, through what does neither, until the closing; before counts until then."""
    opens = torch.tensor([0, 0, 1, 0, 0, 0, 1, 0]).bool().view(-1, 1)
    closes = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0]).bool().view(-1, 1)
    for before in (False, True):
        state = ops.latch(opens, closes, torch.tensor([[before]]), Segments.ragged([8], CPU))
        assert state.flatten().tolist() == [before, before, True, True, False, False, True, True]


def test_windows_count_only_what_counts() -> None:
    """Largest and mean value of the last three tokens that count; NaN where none does."""
    segments = Segments.ragged([4], CPU)
    values = ops.look_back(torch.tensor([[1.0], [5.0], [3.0], [2.0]]), torch.tensor([[[0.0, 0.0]]]), segments)
    counted = torch.tensor([[True], [False], [True], [True]])
    counts = ops.look_back(counted, torch.zeros(1, 1, 2, dtype=torch.bool), segments)
    largest, mean = (ops.over_window(values, counts, means).flatten() for means in (False, True))
    assert largest.tolist() == [1.0, 1.0, 3.0, 3.0]
    assert mean.tolist() == [1.0, 1.0, 2.0, 2.5]
    each = ops.over_window(values.expand(-1, 2, -1), counts.expand(-1, 2, -1), torch.tensor([False, True]))
    assert torch.equal(each, torch.stack([largest, mean], dim=-1))
    assert ops.over_window(values, counts & False, True).isnan().all()


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), size=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None)
def test_segments_are_sequences_by_themselves(lengths: list[int], size: int, seed: int) -> None:
    """Latches, last numbers and windows of a ragged batch are those of its sequences, token by token."""
    draw = torch.Generator().manual_seed(seed)
    N, G = sum(lengths), len(lengths)
    opens = torch.rand(N, 2, generator=draw) < 0.3
    closes = (torch.rand(N, 2, generator=draw) < 0.3) & ~opens
    values, before = torch.randn(N, 2, generator=draw), torch.randn(G, 2, size - 1, generator=draw)
    open_before, last_before = torch.rand(G, 2, generator=draw) < 0.5, torch.arange(2 * G).view(G, 2) - 10
    number = torch.cat([torch.arange(length) + 5 * g for g, length in enumerate(lengths)])
    segments = Segments.ragged(lengths, CPU)
    found = (
        ops.latch(opens, closes, open_before, segments),
        ops.last_number(opens, number, last_before, segments),
        ops.look_back(values, before, segments),
    )
    token = 0
    for g, length in enumerate(lengths):
        state, last, window = open_before[g : g + 1], last_before[g : g + 1], before[g : g + 1]
        for _ in range(length):
            here = slice(token, token + 1)
            state = ops.latch(opens[here], closes[here], state, None)
            last = ops.last_number(opens[here], number[here], last, None)
            seen = ops.look_back(values[here], window, None)
            window = seen[..., 1:]
            assert torch.equal(found[0][here], state)
            assert torch.equal(found[1][here], last)
            assert torch.equal(found[2][here], seen)
            token += 1


def test_features_are_read_in_float32_on_bfloat16_activations() -> None:
    """Thousandths survive: the float32 product differs from the bfloat16 one and equals the reference."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, generator=generator).bfloat16()
    W, b = torch.randn(32, 8, generator=generator), torch.zeros(8)
    exact = torch.relu(x.double() @ W.double()).float()
    assert torch.allclose(ops.read_features(x, Columns(W, b, W.T)), exact, atol=1e-5)
    assert not torch.allclose(torch.relu(x @ W.bfloat16()).float(), exact, atol=1e-5)


def test_the_delta_is_the_reconstruction_plus_the_saes_own_error() -> None:
    """Writing `(f' - f) @ W_dec` equals `decode(f') + (y - decode(f))`: the edit is there, the SAE's flaws are not."""
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(*shape, generator=generator) for shape in ((6, 10), (10,), (10, 6), (6,))]
    sae, y = Sae(*parts), torch.randn(5, 6, generator=generator)
    features = sae.encode(y)
    edited = features.clone()
    edited[:, 4] = 7.0
    out = ops.write_grouped(y[None], y[None], (edited - features)[None, :, 4:5], sae.W_dec[None, 4:5], None)[0]
    assert torch.allclose(out, sae.decode(edited) + (y - sae.decode(features)), atol=1e-4)
    assert not torch.allclose(out, y, atol=1e-2)
