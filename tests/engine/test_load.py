"""Models from hostile and broken folders: no code of theirs runs, no memory is taken, one line says what is wrong."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from steerkit.engine import box_folder, load_model
from steerkit.errors import ModelError

ROOT = Path(__file__).parents[2]
BOX = box_folder("tiny")
assert BOX is not None
FILES = [path for path in BOX.iterdir() if path.is_file() and path.suffix in (".json", ".jinja", ".safetensors")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the box's model, which loads."""
    target = tmp_path / "model"
    target.mkdir()
    for path in FILES:
        shutil.copy(path, target / path.name)
    return target


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; a value of `...` takes the key away."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def refused(folder: Path) -> str:
    """The line that says why a folder is no model; nothing else is said."""
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 600
    assert folder.name in message
    return message


CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
Path({marker!r}).touch()
from transformers import Gemma3TextConfig as OwnConfig, Gemma3ForCausalLM as OwnModel
from transformers import PreTrainedTokenizerFast as OwnTokenizer
"""
OWN: dict[str, Callable[[Path], None]] = {
    "config": lambda folder: edit(
        folder / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    ),
    "model": lambda folder: edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "own.OwnModel"}),
    "tokenizer": lambda folder: edit(
        folder / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]},
    ),
    "generation": lambda folder: shutil.copytree(folder / "code", folder / "custom_generate"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("kind", OWN)
def test_a_models_own_code_never_runs(folder: Path, tmp_path: Path, kind: str) -> None:
    """Not even where standard input says yes; the control is transformers itself, which asks there and runs it."""
    marker = tmp_path / "ran"
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    (folder / "code").mkdir()
    (folder / "code" / "generate.py").write_text(CODE.format(marker=str(marker)))
    OWN[kind](folder)
    env = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "STEERKIT_HOME": str(tmp_path)}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *command], input="yes\n" * 50, env=env, capture_output=True, text=True)

    done = run("-m", "steerkit.cli.main", "run", "hello", "--model", str(folder), "--max-new-tokens", "1")
    assert not marker.exists(), done.stderr
    assert "Do you wish to run" not in done.stdout + done.stderr
    if kind == "config":
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "it brings code of its own, which steerkit never runs" in done.stderr
        control = "import sys; from transformers import AutoConfig; AutoConfig.from_pretrained(sys.argv[1])"
        run("-c", control, str(folder))
        assert marker.exists()


LOADERS = {"from_pretrained", "from_config"}


def unguarded(source: str) -> list[int]:
    """Lines of a source that load a model, config or tokenizer and do not forbid its code."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in LOADERS
        and not any(
            word.arg == "trust_remote_code" and isinstance(word.value, ast.Constant) and word.value.value is False
            for word in call.keywords
        )
    ]


def test_no_call_leaves_remote_code_to_transformers() -> None:
    """Every `from_pretrained` of the package, the examples and the benchmarks says `trust_remote_code=False`."""
    sources = [path for room in ("steerkit", "examples", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    assert sum("from_pretrained(" in path.read_text(encoding="utf-8") for path in sources) >= 4
    found = {str(path): lines for path in sources if (lines := unguarded(path.read_text(encoding="utf-8")))}
    assert found == {}
    assert unguarded("A.from_pretrained(x)\nA.from_pretrained(x, trust_remote_code=True)") == [1, 2]
    assert unguarded("A.from_pretrained(x, trust_remote_code=False)") == []


CONFIG: dict[str, tuple[dict[str, Any], str]] = {
    "a huge width": ({"hidden_size": 10**12}, "vocab_size 1024 and hidden_size 1000000000000 ask for more numbers"),
    "a negative width": ({"hidden_size": -1}, r"config\.json: hidden_size: got -1, expected a positive integer"),
    "no width": ({"hidden_size": 0}, r"config\.json: hidden_size: got 0, expected a positive integer"),
    "a width in words": ({"hidden_size": "128"}, r"hidden_size: got '128', expected a positive integer"),
    "a width that is a list": ({"hidden_size": [128]}, r"hidden_size: got \[128\], expected a positive integer"),
    "true": ({"hidden_size": True}, r"hidden_size: got True, expected a positive integer"),
    "a null": ({"hidden_size": None}, "hidden_size"),
    "another width": ({"hidden_size": 64}, "asks for another shape of model"),
    "a billion layers": (
        {"num_hidden_layers": 10**9, "layer_types": ...},
        r"got 1,000,000,000, but the weights hold 54",
    ),
    "no layers": ({"num_hidden_layers": 0, "layer_types": []}, "num_hidden_layers: got 0, expected a positive"),
    "negative layers": ({"num_hidden_layers": -1}, "num_hidden_layers: got -1, expected a positive integer"),
    "one layer less": (
        {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
        r"the weights hold model\.layers\.3\.\S+ and 12 more, but config\.json asks for no such layer",
    ),
    "one layer more": (
        {"num_hidden_layers": 5, "layer_types": ["full_attention"] * 5},
        r"the weights lack model\.layers\.4\.\S+ and 12 more, which config\.json asks for",
    ),
    "no vocabulary": ({"vocab_size": 0}, "vocab_size: got 0, expected a positive integer"),
    "a huge vocabulary": ({"vocab_size": 10**12}, "vocab_size 1000000000000 and hidden_size 128 ask for more numbers"),
    "another vocabulary": ({"vocab_size": 2048}, r"asks for another shape of model\.embed_tokens\.weight"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads: got 0, expected a positive integer"),
    "a billion heads": ({"num_attention_heads": 10**9}, "num_attention_heads 1000000000 ask for more numbers"),
    "a billion experts": ({"num_local_experts": 10**9}, "num_local_experts 1000000000 ask for more numbers"),
    "wide heads": ({"head_dim": 10**12}, "hidden_size 128 and head_dim 1000000000000 ask for more numbers"),
    "a wide MLP": ({"intermediate_size": 10**12}, "hidden_size 128 and intermediate_size 1000000000000 ask"),
    "no context": ({"max_position_embeddings": 0}, "max_position_embeddings: got 0, expected a positive integer"),
    "no type": ({"model_type": ...}, "model_type"),
    "an unknown type": ({"model_type": "nothing"}, "model type `nothing`"),
    "a type that is a list": ({"model_type": []}, "cannot be loaded: TypeError"),
    "an unknown dtype": ({"dtype": "nope"}, "cannot be loaded: AttributeError: .*nope"),
    "an unknown activation": ({"hidden_activation": "nope"}, "cannot be loaded: KeyError: 'nope'"),
    "a padding token outside": ({"pad_token_id": 10**9}, "cannot be loaded: AssertionError: "),
    "a list of quantization": ({"quantization_config": []}, "cannot be loaded: AttributeError: "),
    "code of the hub": ({"attn_implementation": "evil/kernel"}, "got 'evil/kernel', code from the hub, which steerkit"),
    "code of the hub in a part": ({"text_config": {"_attn_implementation": "evil/kernel"}}, "code from the hub, which"),
    "a huge part": ({"text_config": {"hidden_size": -1}}, "hidden_size: got -1, expected a positive integer"),
    "escapes": ({"model_type": "a\x1b[2Jb\nc"}, "cannot be loaded: "),
}


@pytest.mark.parametrize("kind", CONFIG)
def test_impossible_configs_are_refused_before_anything_is_built(
    folder: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The key, what was got and what the weights hold; nothing of the libraries' is printed. The box loads."""
    changes, message = CONFIG[kind]
    edit(folder / "config.json", **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = refused(folder)
    assert re.search(message, said), said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000
    assert capfd.readouterr() == ("", "")


def test_the_folder_itself_loads(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The control of all tables; with a byte order mark in its config, too."""
    assert load_model(str(folder)).fingerprint == load_model("tiny", dtype="bfloat16").fingerprint
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes())
    assert capfd.readouterr() == ("", "")


CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "a list": (b"[]", "got a list, expected a JSON object"),
    "null": (b"null", "got a NoneType, expected a JSON object"),
    "a number": (b"5", "got a int, expected a JSON object"),
    "nested deep": (b"[" * 100_000, "JSON that is nested too deep to be read"),
    "deep objects": (b'{"a":' * 100_000, "JSON that is nested too deep to be read"),
    "latin-1": (b'{"a": "\xe9"}', "not UTF-8 text"),
    "zeros": (bytes(100), "not JSON"),
    "half": (b'{"a": 1, "b"', "not JSON"),
}
JSON = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("kind", CONTENTS)
def test_files_that_hold_no_object_are_named(folder: Path, name: str, kind: str) -> None:
    """Each JSON file of a model, with its path."""
    data, message = CONTENTS[kind]
    (folder / name).write_bytes(data)
    assert f"{folder / name}: {message}" in refused(folder)


@pytest.mark.parametrize("name", [*JSON, "model.safetensors"])
def test_folders_in_the_place_of_files_are_named(folder: Path, name: str) -> None:
    """Also a link to nothing in the place of the weights."""
    (folder / name).unlink()
    (folder / name).mkdir()
    assert "cannot be read (Is a directory)" in refused(folder)


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _without(path: Path, key: str) -> None:
    tensors = load_file(path)
    del tensors[key]
    save_file(tensors, path, metadata={"format": "pt"})


def _header(path: Path, header: bytes, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header)


WEIGHTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half": (lambda path: _cut(path, path.stat().st_size // 2), r"got 922,832 bytes, expected 1,845,664 by its header"),
    "the last byte": (lambda path: _cut(path, path.stat().st_size - 1), "bytes, expected 1,845,664 by its header"),
    "half of the header": (lambda path: _cut(path, 1000), "truncated or not a safetensors file"),
    "four bytes": (lambda path: _cut(path, 4), "truncated or not a safetensors file"),
    "empty": (lambda path: _cut(path, 0), "truncated or not a safetensors file"),
    "text": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "truncated or not"),
    "a header of 2**60": (lambda path: _header(path, b"{}", 1 << 60), "truncated or not a safetensors file"),
    "a list": (lambda path: _header(path, b"[1]"), "its header is none of a safetensors file"),
    "strange entries": (lambda path: _header(path, b'{"a": 5}'), "its header is none of a safetensors file"),
    "strange ends": (lambda path: _header(path, b'{"a": {"data_offsets": [0, "x"]}}'), "is none of a safetensors file"),
    "a deep header": (lambda path: _header(path, b"[" * 100_000), "nested too deep"),
    "no tensors": (
        lambda path: _header(path, b"{}"),
        "ask for more numbers than the weights can hold|the weights lack",
    ),
    "one tensor gone": (
        lambda path: _without(path, "model.layers.2.mlp.up_proj.weight"),
        r"the weights lack model\.layers\.2\.mlp\.up_proj\.weight, which config\.json asks for",
    ),
    "gone": (lambda path: path.unlink(), r"no weights in the folder; expected model\.safetensors beside config\.json"),
    "a link to nothing": (
        lambda path: (path.unlink(), path.symlink_to("nothing")),
        "model.safetensors: cannot be read",
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_broken_weights_are_named(folder: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Truncated, foreign, lying or missing: one line, and no model of random numbers."""
    spoil, message = WEIGHTS[kind]
    spoil(folder / "model.safetensors")
    said = refused(folder)
    assert re.search(message, said), said
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_of_nothing_is_named(folder: Path) -> None:
    """An object that is no tokenizer, and none at all."""
    (folder / "tokenizer.json").write_text("{}")
    assert "cannot be loaded: KeyError: 'added_tokens'" in refused(folder)
    (folder / "tokenizer.json").unlink()
    assert "cannot be loaded: " in refused(folder)


@pytest.mark.parametrize("name", ["what is this", "a/b/c", "..", "a//b", "-x", "a" * 200, "x\x1b[2J"])
def test_names_that_are_none_ask_nobody(name: str) -> None:
    """Neither a folder nor a repository: said at once."""
    with pytest.raises(ModelError, match=r"no such folder|cannot be read|no weights|config\.json") as caught:
        load_model(name)
    assert "\x1b" not in str(caught.value)
