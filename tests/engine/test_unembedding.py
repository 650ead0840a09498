"""Logits in pieces, in memory that is kept: the same numbers, nothing left on the model, nobody sees them change."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steerkit.engine import Batch, Sampling, generate, prepacked, read_along
from steerkit.engine.hf.unembedding import Unembedding
from steerkit.sae.cpu import onednn
from steerkit.testing import FUNCTIONGEMMA, operations, random_model

VOCABULARY = 70_001
"""Rows of 512 bytes make more than 32 MiB in float32, and no piece divides them."""
SIZE = {**FUNCTIONGEMMA, "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 1}
REPLY = (5, 60_000, 17)


def batch(rows: int, seed: int = 1) -> Batch:
    ids = torch.randint(1, VOCABULARY, (rows, 6), generator=torch.Generator().manual_seed(seed))
    return Batch(ids, torch.ones_like(ids))


def right(model: Any, read: Batch) -> Tensor:
    """Logits `(4, B, vocabulary)` before the reply's tokens and after them, as the model alone gives them."""
    ids = torch.cat([read.ids, torch.tensor(REPLY).expand(len(read.ids), -1)], dim=1)
    with torch.inference_mode():
        found: Tensor = model(ids).logits[:, 5:]
    return found.movedim(1, 0)


def said(model: Any, read: Batch) -> Tensor:
    return torch.stack(list(read_along(model, read, REPLY)))


def with_bias(model: Any) -> Any:
    head = nn.Linear(128, VOCABULARY).requires_grad_(False)
    head.weight, model.lm_head = model.lm_head.weight, head
    return model


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_logits_are_the_models(rows: int, bias: bool) -> None:
    """Of a row and of several, which are multiplied in pieces; control: those of other prompts are not near."""
    model, read = random_model(SIZE), batch(rows)
    if bias:
        with_bias(model)
    found = said(model, read)
    assert torch.allclose(found, right(model, read), atol=1e-5)
    assert not torch.allclose(found, right(model, batch(rows, seed=2)), atol=1e-2)


def test_bfloat16_logits_are_the_models() -> None:
    """To its rounding; control as above."""
    model, read = random_model({**SIZE, "vocab_size": 140_000}, dtype=torch.bfloat16), batch(3)
    found = said(model, read)
    assert torch.allclose(found, right(model, read), atol=0.02)
    assert not torch.allclose(found, right(model, batch(3, seed=2)), atol=0.1)


@pytest.mark.skipif(not onednn.supports(torch.float32), reason="no oneDNN here")
def test_copies_of_weights_go_first() -> None:
    """Where they are in place nothing else is; control: without them it is."""
    model, seen = random_model(SIZE), []
    copies = prepacked(model, True)
    assert copies is not None
    model.lm_head.register_forward_pre_hook(lambda module, _: seen.append((copies.obstacle, vars(module)["forward"])))
    with copies.in_place():
        stands = vars(model.lm_head)["forward"]
        said(model, batch(3))
        assert vars(model.lm_head)["forward"] is stands
    assert seen == [("", stands)] * 4
    said(model, batch(3))
    assert not any(obstacle or stands is stood for obstacle, stood in seen[4:])
    assert len(seen) == 8


@pytest.fixture
def threads() -> Iterator[None]:
    """So many as there were before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("bits", "rows", "used", "products"), [(32, 1, 1, 1), (32, 4, 1, 18), (32, 4, 2, 9), (16, 4, 1, 1)]
)
def test_a_row_is_one_product_and_several_are_many(
    bits: int, rows: int, used: int, products: int, threads: None
) -> None:
    """Of a float32 weight of 34 MiB, a piece for each thread at once; halves of bfloat16 gain nothing."""
    of = torch.float32 if bits == 32 else torch.bfloat16
    model = random_model({**SIZE, "vocab_size": VOCABULARY * 32 // bits}, dtype=of)
    states = torch.ones(rows, 1, 128, dtype=of)
    torch.set_num_threads(used)
    with torch.inference_mode(), Unembedding(model).in_place():
        assert operations(lambda: model.lm_head(states)) == products


def test_memory_is_kept_but_where_hooks_could_see_it_change() -> None:
    """What hooks keep stays what it was, in pieces as well; without any the next logits lie where the last did."""
    model, states = random_model(SIZE), torch.randn(2, 3, 1, 128)

    def places(unembedding: Unembedding) -> tuple[int, int]:
        found = []
        for one in states:
            with torch.inference_mode(), unembedding.in_place():
                found.append(model.lm_head(one))
        assert vars(model.lm_head).get("forward") is None
        return found[0].data_ptr(), found[1].data_ptr()

    first, second = places(Unembedding(model))
    assert first == second
    for module in (model.lm_head, model):
        handle = module.register_forward_hook(lambda *_: None)
        first, second = places(Unembedding(model))
        with torch.inference_mode(), Unembedding(model).in_place():
            products = operations(lambda: model.lm_head(states[0]))
        handle.remove()
        assert first != second
        assert products > 1


def test_passes_between_steps_are_the_models_own() -> None:
    """Nothing stands on it then, its logits are its own, and the generation goes on as if there had been none."""
    model, read = random_model(SIZE), batch(3)
    limits = [Sampling(max_new_tokens=4)] * 3
    alone = list(generate(model, read, limits, (), 0))
    plain, found = right(model, read), []
    for tokens in generate(model, read, limits, (), 0):
        assert "forward" not in vars(model.lm_head)
        found.append(tokens)
        assert torch.equal(right(model, read), plain)
    assert found == alone


def test_another_threads_passes_are_the_models_own() -> None:
    """It may run the model in the middle of a step; control: in this thread the memory is the same."""
    model, states = random_model(SIZE), torch.randn(2, 3, 1, 128)

    def passed(one: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = model.lm_head(one)
        return found

    with Unembedding(model).in_place(), ThreadPoolExecutor(1) as pool:
        own = passed(states[0])
        kept, other = own.clone(), pool.submit(passed, states[1]).result()
        assert torch.equal(own, kept)
        assert not torch.allclose(other, kept, atol=1e-2)
        assert passed(states[1]).data_ptr() == own.data_ptr()
        assert torch.allclose(other, own, atol=1e-5)


@pytest.mark.parametrize("case", ["narrow", "another class", "another forward", "none"])
def test_other_heads_are_left_alone(case: str) -> None:
    """One that lies in the caches, one of a library's own, one that a library has changed, and a model without."""
    model: Any = random_model({**SIZE, "vocab_size": 2048} if case == "narrow" else SIZE)
    if case == "another class":
        model.lm_head = type("Own", (nn.Linear,), {})(128, VOCABULARY, bias=False).requires_grad_(False)
    elif case == "another forward":
        model.lm_head.forward = lambda states: states
    elif case == "none":
        model = model.model
    before = None if case == "none" else vars(model.lm_head).get("forward")
    with Unembedding(model).in_place():
        assert case == "none" or vars(model.lm_head).get("forward") is before


def test_a_weight_that_a_library_replaces_later_is_left_alone() -> None:
    """Between two steps; the control is the step before."""
    model = random_model(SIZE)
    unembedding, placed = Unembedding(model), []
    for _ in range(2):
        with unembedding.in_place():
            placed.append("forward" in vars(model.lm_head))
        model.lm_head.weight = type("Own", (nn.Parameter,), {})(model.lm_head.weight.data, requires_grad=False)
    assert placed == [True, False]


def test_passes_that_need_gradients_or_all_tokens_run_as_ever() -> None:
    """To the bit, also in place."""
    model, states = random_model(SIZE), torch.randn(2, 5, 128)
    plain = nn.functional.linear(states, model.lm_head.weight)
    with Unembedding(model).in_place():
        with torch.inference_mode():
            assert torch.equal(model.lm_head(states), plain)
        one = states[:, :1].clone().requires_grad_(True)
        (found,) = torch.autograd.grad(model.lm_head(one).sum(), one)
    assert float(found.abs().sum()) > 0
