"""Broken and hostile SAE files: one line that names the file and what was found, no code run and no memory taken."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file

from steerkit.errors import SaeError
from steerkit.sae import load_checkpoint, load_set, read_labels
from steerkit.sites import Site
from tests.sae.test_checkpoint import content, write
from tests.sae.test_formats import CONFIGS, good


class Calls:
    """Pickled as a call of a function that makes a folder."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


WANTED: dict[str, tuple[Any, str]] = {
    "os.system": (Calls(os.system, "touch ran"), r"posix\.system"),
    "eval": (Calls(eval, "1"), r"builtins\.eval"),
    "subprocess": (Calls(subprocess.Popen, ["touch", "ran"]), r"subprocess\.Popen"),
    "a path": (Path("somewhere"), r"pathlib\.PosixPath"),
    "a module": (torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
    "torch.load": (Calls(torch.load, "other.pt"), r"torch\.serialization\.load"),
    "numpy's loader": (Calls(numpy.load, "other.npy"), r"numpy\.load|numpy.*\.load"),
}


@pytest.mark.parametrize("place", ["history", "W_enc", "extra"])
@pytest.mark.parametrize("name", WANTED)
def test_a_refused_pickle_says_what_it_asks_for(tmp_path: Path, name: str, place: str) -> None:
    """The function's name, and none of torch's advice to load unsafely; the control is read."""
    value, wanted = WANTED[name]
    assert load_checkpoint(write(tmp_path / "control.pt")).layer == 0
    with pytest.raises(
        SaeError, match=rf"sae_layer_00\.pt: refused, the pickle wants to run code: it asks for {wanted};"
    ) as caught:
        load_checkpoint(write(tmp_path / "sae_layer_00.pt", **{place: value}))
    assert "\n" not in str(caught.value)
    assert "add_safe_globals" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_says_what_it_asks_for(tmp_path: Path, protocol: int) -> None:
    """So does a file that is a pickle alone, in every protocol."""
    path = tmp_path / "sae_layer_00.pt"
    path.write_bytes(pickle.dumps({"a": Calls(os.mkdir, str(tmp_path / "ran"))}, protocol))
    with pytest.raises(SaeError, match=r"refused, the pickle wants to run code: it asks for posix\.mkdir;"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists()


def _older_form(path: Path, **changes: Any) -> None:
    torch.save(content(**changes), path, _use_new_zipfile_serialization=False)


def test_the_older_form_is_read_and_refused_alike(tmp_path: Path) -> None:
    """torch's form of before 1.6."""
    path = tmp_path / "sae_layer_00.pt"
    _older_form(path, history={"loss": [numpy.float32(2)]})
    assert load_checkpoint(path).history.loss == (2.0,)
    _older_form(path, history=Calls(os.mkdir, "ran"))
    with pytest.raises(SaeError, match=r"it asks for posix\.mkdir;"):
        load_checkpoint(path)


def _nested() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.zeros(12)] * 8)


TENSORS: dict[str, tuple[Callable[[], Any], str]] = {
    "stride 0": (lambda: torch.zeros(1).expand(8, 12), "got 96 numbers of which 1 are stored"),
    "a row over": (lambda: torch.zeros(12).expand(8, 12), "got 96 numbers of which 12 are stored"),
    "overlapping": (lambda: torch.zeros(30).as_strided((8, 12), (1, 1)), "got 96 numbers of which 30 are stored"),
    "sparse": (lambda: torch.zeros(8, 12).to_sparse(), "got a sparse coo tensor, expected a dense one"),
    "sparse by rows": (lambda: torch.zeros(8, 12).to_sparse_csr(), "got a sparse csr tensor, expected a dense one"),
    "meta": (lambda: torch.zeros(8, 12, device="meta"), "got a meta tensor, expected a dense one"),
    "nested": (_nested, "got a nested tensor, expected a dense one"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.zeros(8, 12), 0.1, 0, torch.qint8),
        "got a quantized tensor, expected a dense one",
    ),
    "float8": (lambda: torch.zeros(8, 12).to(torch.float8_e4m3fn), "got a tensor of torch.float8_e4m3fn, expected one"),
    "float8 of the other kind": (
        lambda: torch.zeros(8, 12).to(torch.float8_e5m2),
        "got a tensor of torch.float8_e5m2, expected one of float32, bfloat16",
    ),
    "integers": (lambda: torch.zeros(8, 12, dtype=torch.int8), "got a tensor of torch.int8, expected a floating-point"),
    "booleans": (lambda: torch.zeros(8, 12, dtype=torch.bool), "got a tensor of torch.bool, expected a floating-point"),
    "complex": (lambda: torch.zeros(8, 12) * 1j, "got a tensor of torch.complex64, expected a floating-point"),
    "transposed": (lambda: torch.zeros(12, 8), r"got shape \(12, 8\), expected \(8, 12\)"),
    "flat": (lambda: torch.zeros(96), r"got shape \(96,\), expected \(8, 12\)"),
    "one number": (lambda: torch.tensor(1.0), r"got shape \(\), expected \(8, 12\)"),
    "empty": (lambda: torch.zeros(0), r"got shape \(0,\), expected \(8, 12\)"),
    "NaN": (lambda: torch.full((8, 12), torch.nan), "got NaN or infinity, expected finite"),
    "infinity": (lambda: torch.full((8, 12), -torch.inf), "got NaN or infinity, expected finite"),
    "an array of integers": (
        lambda: numpy.zeros((8, 12), int),
        "got a tensor of torch.int64, expected a floating-point",
    ),
    "an array of objects": (lambda: numpy.array([[None]]), "got a NumpyValue, expected a floating-point tensor"),
    "a list": (lambda: [[0.0] * 12] * 8, "got a list, expected a floating-point tensor"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TENSORS)
def test_weights_of_another_kind_are_named(tmp_path: Path, kind: str) -> None:
    """The key and what it holds, without a warning of torch's; a view with all its numbers, the control, is read."""
    make, message = TENSORS[kind]
    assert load_checkpoint(write(tmp_path / "control.pt", W_enc=torch.zeros(12, 8).T)).layer == 0
    with pytest.raises(SaeError, match=rf"sae_layer_00\.pt: W_enc: {message}") as caught:
        load_checkpoint(write(tmp_path / "sae_layer_00.pt", W_enc=make()))
    assert "\n" not in str(caught.value)


def _huge(path: Path) -> None:
    one = torch.zeros(1)
    many = {"W_enc": one.expand(64, 1 << 26), "W_dec": one.expand(1 << 26, 64), "b_enc": one.expand(1 << 26)}
    write(path, d_in=64, d_sae=1 << 26, b_dec=torch.zeros(64), **many)


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + b"0" * (1 << 28))
        archive.writestr("x/version", "3\n")


def _lying(path: Path, storage: bool) -> None:
    """Weights that say they hold 2**29 numbers, in a file that holds 500; and their storages say so too."""
    whole = io.BytesIO()
    parts = {"W_enc": torch.zeros(2, 250), "W_dec": torch.zeros(250, 2), "b_enc": torch.zeros(250)}
    torch.save(content(d_in=2, d_sae=250, b_dec=torch.zeros(2), **parts), whole)
    lies = {b"K\xfa": b"J" + struct.pack("<i", 1 << 28)}
    lies |= {b"M\xf4\x01t": b"J" + struct.pack("<i", 1 << 29) + b"t"} if storage else {}
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            for truth, lie in lies.items() if name.endswith("data.pkl") else ():
                assert truth in data
                data = data.replace(truth, lie)
            target.writestr(name, data)


def _bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        numpy.savez(file, a=numpy.zeros(3))


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


PT_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "stride 0 for 16 GB": (_huge, "W_enc: got 4,294,967,296 numbers of which 1 are stored"),
    "a zip bomb": (_bomb, "a compressed archive; expected one that torch.save wrote"),
    "sizes that lie": (lambda path: _lying(path, storage=False), r"truncated or not a PyTorch checkpoint|of which"),
    "storages that lie": (lambda path: _lying(path, storage=True), r"truncated or not a PyTorch checkpoint|of which"),
    "empty": (lambda path: _bytes(path, b""), "an empty file; truncated or not a PyTorch checkpoint"),
    "text": (lambda path: _bytes(path, b"hello\nworld\n"), "a text file; truncated or not a PyTorch checkpoint"),
    "a page": (lambda path: _bytes(path, b"<!DOCTYPE html>\n<html>"), "a text file; truncated or not"),
    "json": (lambda path: _bytes(path, b'{"W_enc": [[1.0]]}'), "a text file; truncated or not"),
    "git lfs": (lambda path: _bytes(path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "a Git LFS"),
    "noise": (lambda path: _bytes(path, bytes(range(256)) * 9), "truncated or not a PyTorch checkpoint"),
    "zeros": (lambda path: _bytes(path, bytes(4096)), "truncated or not a PyTorch checkpoint"),
    "a zip": (_npz, "truncated or not a PyTorch checkpoint"),
    "a zip's first bytes": (lambda path: _bytes(path, b"PK\x03\x04" + bytes(99)), "truncated or not a PyTorch"),
    "a list": (lambda path: torch.save([1, 2], path), "got a list, expected a dict with the keys"),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), "got a Tensor, expected a dict with the keys"),
    "other keys": (lambda path: torch.save({1: 2, "a\nb\x1b": 3}, path), r"got keys 1, a\\nb\\x1b; missing model_name"),
    "deep": (lambda path: _bytes(path, b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b"."), "truncated or not"),
    "a folder": (lambda path: path.mkdir(), "no such file"),
    "a link to nothing": (_dangling, "no such file"),
    "a pipe": (lambda path: os.mkfifo(path), "no such file"),
}


@pytest.mark.parametrize("kind", PT_FILES)
def test_files_that_are_no_checkpoint_are_named(tmp_path: Path, kind: str) -> None:
    """In one line, and in an address space that has no room for what they ask for."""
    make, message = PT_FILES[kind]
    path = tmp_path / "sae_layer_00.pt"
    make(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SaeError, match=rf"sae_layer_00\.pt: .*{message}") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("name", ["²1", "٣", "1²", "x", "", "-1", "+1", "1_0", "9" * 200])
def test_a_files_number_is_ascii_digits(tmp_path: Path, name: str) -> None:
    """What Python calls a digit and cannot read is no number of a layer; the control has one."""
    write(tmp_path / f"sae_layer_{name}.pt", layer=3)
    with pytest.raises(SaeError, match=r"layer_idx: got 3, expected the number in the file's name"):
        load_set(tmp_path)
    os.rename(tmp_path / f"sae_layer_{name}.pt", tmp_path / "sae_layer_3.pt")
    assert list(load_set(tmp_path)) == [Site(3)]


def _header(path: Path, header: bytes, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + bytes(64))


def _tensors(**entries: Any) -> bytes:
    return json.dumps(entries).encode()


SAFETENSORS: dict[str, Callable[[Path], None]] = {
    "a header of 2**60 bytes": lambda path: _header(path, b"{}", 1 << 60),
    "a header of 2**64 - 1 bytes": lambda path: _header(path, b"{}", (1 << 64) - 1),
    "no JSON": lambda path: _header(path, b"{{{{"),
    "a list": lambda path: _header(path, b"[]"),
    "a deep header": lambda path: _header(path, b"[" * 100_000),
    "overlapping": lambda path: _header(
        path,
        _tensors(
            a={"dtype": "F32", "shape": [8], "data_offsets": [0, 32]},
            b={"dtype": "F32", "shape": [8], "data_offsets": [16, 48]},
        ),
    ),
    "a huge shape": lambda path: _header(
        path, _tensors(a={"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 64]})
    ),
    "a negative shape": lambda path: _header(
        path, _tensors(a={"dtype": "F32", "shape": [-16], "data_offsets": [0, 64]})
    ),
    "an unknown type": lambda path: _header(path, _tensors(a={"dtype": "F99", "shape": [16], "data_offsets": [0, 64]})),
    "beyond the end": lambda path: _header(
        path, _tensors(a={"dtype": "F32", "shape": [1 << 20], "data_offsets": [0, 1 << 22]})
    ),
    "text": lambda path: _bytes(path, b"version https://git-lfs.github.com/spec/v1\n"),
    "short": lambda path: _bytes(path, b"\x08"),
}


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_headers_that_lie_are_named(tmp_path: Path, kind: str) -> None:
    """Of an SAE's file and of a set's statistics."""
    good("safetensors", tmp_path)
    SAFETENSORS[kind](tmp_path / "stats.safetensors")
    with pytest.raises(SaeError, match=r"stats\.safetensors: truncated or not a safetensors file") as caught:
        load_set(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "stats.safetensors").unlink()
    assert load_set(tmp_path)
    SAFETENSORS[kind](tmp_path / "sae_layer_02.safetensors")
    with pytest.raises(SaeError, match=r"sae_layer_02\.safetensors: truncated or not a safetensors file"):
        load_set(tmp_path)


def test_float8_in_safetensors_is_named(tmp_path: Path) -> None:
    """Also where the file itself is a good one."""
    path = good("saelens", tmp_path)
    from safetensors.torch import load_file

    tensors = load_file(path)
    save_file(tensors | {"W_enc": tensors["W_enc"].to(torch.float8_e4m3fn)}, path)
    with pytest.raises(SaeError, match=r"W_enc: got a tensor of torch.float8_e4m3fn, expected one of float32"):
        load_set(tmp_path)


DEEP = "[" * 100_000
JSON_FILES = {
    "deep": (DEEP.encode(), "JSON that is nested too deep to be read"),
    "deep objects": (b'{"a":' * 100_000, "JSON that is nested too deep to be read"),
    "empty": (b"", "not JSON"),
    "latin-1": (b'{"a": "\xe9"}', "not UTF-8 text"),
    "a list": (b"[]", "got a list, expected a JSON object"),
    "null": (b"null", "got a NoneType, expected a JSON object"),
    "a number of 5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
}


@pytest.mark.parametrize("form", CONFIGS)
@pytest.mark.parametrize("kind", JSON_FILES)
def test_configs_that_are_none_are_named(tmp_path: Path, form: str, kind: str) -> None:
    """In every format with a config; one with a byte order mark, the control, is read."""
    good(form, tmp_path / "set")
    path = tmp_path / "set" / CONFIGS[form]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_set(tmp_path / "set")
    data, message = JSON_FILES[kind]
    path.write_bytes(data)
    with pytest.raises(SaeError, match=rf"{path.name}: {message}") as caught:
        load_set(tmp_path / "set")
    assert "\n" not in str(caught.value)


def test_a_config_that_is_a_folder_or_a_pipe(tmp_path: Path) -> None:
    """The folder holds no SAE in the format then."""
    good("saelens", tmp_path / "set")
    path = tmp_path / "set" / CONFIGS["saelens"]
    path.unlink()
    path.mkdir()
    with pytest.raises(SaeError, match="no SAE there; expected"):
        load_set(tmp_path / "set")


LABELS = {
    "deep": (DEEP, "nested too deep"),
    "empty": ("", "not JSON"),
    "a list": ("[]", "expected"),
    "no labels": ("{}", "expected"),
    "labels that are a list": ('{"labels": []}', "expected"),
    "a layer that is none": ('{"labels": {"²": {"1": "a"}}}', "expected"),
    "an index that is none": ('{"labels": {"1": {"x": "a"}}}', "expected"),
    "an index of 5,000 digits": ('{"labels": {"1": {"' + "9" * 5000 + '": "a"}}}', "expected"),
    "a label that is no text": ('{"labels": {"1": {"2": ["a"]}}}', "expected"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_are_none_are_named(tmp_path: Path, kind: str) -> None:
    """One line, and what the file should hold."""
    path = tmp_path / "labels.json"
    text, message = LABELS[kind]
    path.write_text(text)
    with pytest.raises(SaeError, match=rf"labels\.json: .*{message}") as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)


def test_the_command_prints_one_line(tmp_path: Path) -> None:
    """No traceback, no warning, status 1, in 8 GB of addresses; without a history, the control, the table."""
    command = ["bash", "-c", f"ulimit -v 8000000; {sys.executable} -m steerkit.cli.main sae inspect {tmp_path}"]
    _huge(tmp_path / "sae_layer_00.pt")
    assert (tmp_path / "sae_layer_00.pt").stat().st_size < 4_000
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    raw = content()
    del raw["history"]
    torch.save(raw, tmp_path / "sae_layer_00.pt")
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split() == ["0", "-", "-", "-", "-"]


def test_a_training_that_diverged_is_json(tmp_path: Path) -> None:
    """NaN and infinity are null there."""
    write(tmp_path / "sae_layer_00.pt", history={"loss": [float("nan")], "mse": [float("inf")], "l0": [6.0]})
    command = [sys.executable, "-m", "steerkit.cli.main", "sae", "inspect", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "NaN" not in done.stdout
    found = json.loads(done.stdout)
    assert (found["loss"], found["mse"], found["l0"], found["density"]) == (None, None, 6.0, 0.5)
