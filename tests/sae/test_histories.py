"""Training curves in whatever form a script left them in a checkpoint: the weights are read in any case."""

from __future__ import annotations

import array
import collections
import decimal
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from steerkit.errors import SaeError
from steerkit.sae import load_checkpoint
from tests.sae.test_checkpoint import content, write

L, M, Z = [3.0, 2.0], [2.5, 1.5], [9.0, 6.0]
NAMED = {"loss": L, "mse": M, "l0": Z}


def each(make: Any) -> dict[str, Any]:
    """The three curves, each number as `make` gives it."""
    return {key: [make(value) for value in values] for key, values in NAMED.items()}


def whole(make: Any) -> dict[str, Any]:
    """The three curves, each as `make` gives it."""
    return {key: make(values) for key, values in NAMED.items()}


def _default_dict() -> dict[str, list[float]]:
    return collections.defaultdict(list, NAMED)


SAME: dict[str, Any] = {
    "floats": NAMED,
    "ints": each(lambda value: int(value) if value == int(value) else value),
    "np.mean": each(lambda value: numpy.mean([value])),
    "numpy.float32": each(numpy.float32),
    "numpy.float16": each(numpy.float16),
    "numpy.longdouble": each(numpy.longdouble),
    "arrays": whole(numpy.array),
    "arrays of float32": whole(lambda values: numpy.array(values, numpy.float32)),
    "big-endian arrays": whole(lambda values: numpy.array(values, ">f4")),
    "a column": whole(lambda values: numpy.array(values).reshape(-1, 1)),
    "Fortran's order": whole(lambda values: numpy.asfortranarray(numpy.array([values]))),
    "0-d tensors": each(torch.tensor),
    "0-d tensors in bfloat16": each(lambda value: torch.tensor(value, dtype=torch.bfloat16)),
    "0-d parameters": each(lambda value: torch.nn.Parameter(torch.tensor(value))),
    "tensors": whole(torch.tensor),
    "tuples": whole(tuple),
    "a list a step": each(lambda value: [value]),
    "a defaultdict": _default_dict(),
    "a defaultdict of deques": collections.defaultdict(list, whole(collections.deque)),
    "an OrderedDict": collections.OrderedDict(NAMED),
    "array.array": whole(lambda values: array.array("d", values)),
    "Decimal": each(lambda value: decimal.Decimal(str(value))),
    "a dict an epoch": [dict(zip(NAMED, row, strict=True)) for row in zip(L, M, Z, strict=True)],
    "epochs by number": {n: dict(zip(NAMED, row, strict=True)) for n, row in enumerate(zip(L, M, Z, strict=True))},
    "epochs by name": {
        f"epoch_{n}": dict(zip(NAMED, row, strict=True)) for n, row in enumerate(zip(L, M, Z, strict=True))
    },
    "a dict an epoch, numpy": [
        {key: numpy.float32(value) for key, value in zip(NAMED, row, strict=True)} for row in zip(L, M, Z, strict=True)
    ],
    "under train": {"train": NAMED, "config": {"lr": 1e-4}},
    "curves by epoch": {key: dict(enumerate(values)) for key, values in NAMED.items()},
    "other keys beside": {**NAMED, "epoch": range(2), "time": ["10:04", "10:05"], "lr": numpy.array([1e-4, 1e-4])},
    "capitals": {key.upper(): values for key, values in NAMED.items()},
}
NONE: dict[str, Any] = {
    "None": None,
    "an empty dict": {},
    "an empty list": [],
    "unnamed numbers": [3.0, 2.0],
    "an unnamed array": numpy.arange(6.0),
    "one number": 2.5,
    "other curves": {"reconstruction": L, "sparsity": Z},
}


@pytest.mark.parametrize("form", SAME)
def test_every_numeric_history_is_read(tmp_path: Path, form: str) -> None:
    """The curves are the same numbers, whoever wrote them; so are the weights."""
    found = load_checkpoint(write(tmp_path / "sae_layer_00.pt", history=SAME[form]))
    assert (found.history.loss, found.history.mse, found.history.l0) == (tuple(L), tuple(M), tuple(Z))
    assert torch.equal(found.sae.W_enc, content()["W_enc"])


@pytest.mark.parametrize("form", NONE)
def test_a_history_that_names_no_curve_is_none(tmp_path: Path, form: str) -> None:
    """The weights are read; the table has nothing to show. The control has curves."""
    found = load_checkpoint(write(tmp_path / "sae_layer_00.pt", history=NONE[form]))
    assert (found.history.loss, found.history.l0) == ((), ())
    assert load_checkpoint(write(tmp_path / "control.pt")).history.loss == tuple(L)


def test_no_history_at_all(tmp_path: Path) -> None:
    """What the arithmetic needs is the weights."""
    raw = content()
    del raw["history"]
    torch.save(raw, tmp_path / "sae_layer_00.pt")
    found = load_checkpoint(tmp_path / "sae_layer_00.pt")
    assert found.history.loss == ()
    assert torch.equal(found.sae.W_dec, raw["W_dec"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, numpy.float32("nan"), torch.tensor(math.nan)])
def test_a_training_that_diverged(tmp_path: Path, value: Any) -> None:
    """A curve may hold what is no finite number: it is of the training, not of the weights."""
    found = load_checkpoint(write(tmp_path / "sae_layer_00.pt", history={"loss": [3.0, value]}))
    assert found.history.loss[0] == 3.0
    assert not math.isfinite(found.history.loss[1])


@pytest.mark.parametrize(
    "numbers",
    [numpy.int64, lambda value: numpy.array(value), lambda value: torch.tensor(value)],
    ids=["numpy", "array", "tensor"],
)
def test_sizes_and_layers_in_any_whole_number(tmp_path: Path, numbers: Any) -> None:
    """`d_in`, `d_sae` and `layer_idx` as NumPy or a tensor has them; a fraction is none."""
    path = write(tmp_path / "sae_layer_03.pt", layer_idx=numbers(3), d_in=numbers(8), d_sae=numbers(12))
    assert load_checkpoint(path).layer == 3
    with pytest.raises(SaeError, match=r"d_in: got .*, expected a positive integer"):
        load_checkpoint(write(path, d_in=numpy.float64(8)))


def test_weights_as_arrays(tmp_path: Path) -> None:
    """NumPy's arrays of real numbers are tensors."""
    raw = {key: content()[key].detach().numpy() for key in ("W_enc", "b_enc", "W_dec", "b_dec")}
    found = load_checkpoint(write(tmp_path / "sae_layer_00.pt", **raw)).sae
    assert all(torch.equal(tensor, torch.from_numpy(raw[name])) for name, tensor in found.tensors.items())


def test_the_names_of_numpy_1(tmp_path: Path) -> None:
    """Files of NumPy 1 say `numpy.core` where those of NumPy 2 say `numpy._core`."""
    new = write(tmp_path / "new.pt", history=each(numpy.float64) | {"l0": numpy.array(Z)})
    old = tmp_path / "sae_layer_00.pt"
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            assert not name.endswith("data.pkl") or data.count(b"numpy._core") == 2
            target.writestr(name, data.replace(b"numpy._core", b"numpy.core"))
    assert load_checkpoint(old).history == load_checkpoint(new).history
    assert load_checkpoint(old).history.l0 == tuple(Z)


def test_torchs_own_list_of_what_is_safe_is_left_as_it_was(tmp_path: Path) -> None:
    """Names that the process allowed stay allowed and are used; the stand-ins are gone after the load."""
    own = [numpy._core.multiarray.scalar, numpy.dtype, type(numpy.dtype("f8"))]
    path = write(tmp_path / "sae_layer_00.pt", history=each(numpy.float64))
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals(own):
        assert load_checkpoint(path).history.loss == tuple(L)
        assert torch.load(path, weights_only=True)["history"]["loss"] == L
    assert load_checkpoint(path).history.loss == tuple(L)
    assert set(torch.serialization.get_safe_globals()) == before


LOOP: list[Any] = []
LOOP.append(LOOP)


def _laughs() -> list[Any]:
    found: list[Any] = [1.0] * 10
    for _ in range(6):
        found = [found] * 10
    return found


BAD: dict[str, tuple[Any, str]] = {
    "a text": ({"loss": "low"}, r"history\.loss: got str, expected a list of numbers"),
    "texts": ({"loss": ["low"]}, r"history\.loss: got str, expected a list of numbers"),
    "bytes": ({"loss": b"low"}, r"history\.loss: got bytes, expected a list of numbers"),
    "complex": ({"loss": [1j]}, r"history\.loss: got complex, expected a list of numbers"),
    "complex of numpy": ({"loss": [numpy.complex64(1)]}, r"history\.loss: got a NumPy value that is no real number"),
    "texts of numpy": ({"loss": numpy.array(["low"])}, r"history\.loss: got a NumPy value that is no real number"),
    "objects": ({"loss": numpy.array([1, "low"], object)}, r"history\.loss: got a NumPy value that is no real number"),
    "too large": ({"loss": [10**400]}, r"history\.loss: got a number beyond the range of floats"),
    "a text alone": ("low", r"history: got str, expected a dict with loss, mse and l0"),
    "a list of itself": ({"loss": LOOP}, r"history\.loss: got list, expected a list of numbers"),
    "a million times": ({"loss": _laughs()}, r"history: got more numbers than the file has bytes"),
    "a huge range": ({"loss": range(10**15)}, r"history: got more numbers than the file has bytes"),
    "stride 0": ({"loss": torch.zeros(1).expand(10**12)}, r"history: got more numbers than the file has bytes"),
    "sparse": ({"loss": torch.zeros(9).to_sparse()}, r"history\.loss: got a tensor without numbers in it"),
    "meta": ({"loss": torch.zeros(9, device="meta")}, r"history\.loss: got a tensor without numbers in it"),
}


@pytest.mark.parametrize("form", BAD)
def test_what_is_no_curve_is_named(tmp_path: Path, form: str) -> None:
    """One line with the file, the curve and what was got."""
    value, message = BAD[form]
    with pytest.raises(SaeError, match=rf"sae_layer_00\.pt: {message}") as caught:
        load_checkpoint(write(tmp_path / "sae_layer_00.pt", history=value))
    assert "\n" not in str(caught.value)
