"""SAE weights are mapped, not read: a process that loads a set owns next to none of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from steerkit.sae import Checkpoint, Sae
from steerkit.sae.formats import functiongemma, tensors

LAYERS, D_IN, D_SAE = 4, 256, 4096
SIZE = LAYERS * 2 * D_IN * D_SAE * 4
OWNED = """
import sys, torch
from pathlib import Path
from steerkit.sae import load_set
from steerkit.steer import compile_plan
from steerkit.testing import planted_policy

def owned():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) * 1024

torch.randn(64, 64) @ torch.randn(64, 64)
before = owned()
if sys.argv[1] == "load_set":
    saes = load_set(sys.argv[2])
    edit = {"f": {"clamp": 1}}
    policy = planted_policy("p", {"f": (1, 7)}, steer=[{"name": "r", "where": "any", "edit": edit}], guard=None)
    plan = compile_plan([(policy,)], saes)
else:
    held = [torch.load(path, weights_only=True) for path in sorted(Path(sys.argv[2]).glob("*.pt"))]
print(owned() - before)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One set in both of our formats."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for layer in range(LAYERS):
        rows = torch.randn(D_SAE, D_IN, generator=draw)
        sae = Sae(rows.T.contiguous(), torch.zeros(D_SAE), rows, torch.zeros(D_IN))
        made.append(Checkpoint(Path(), "steerkit/random", layer, sae))
    folders = {name: tmp_path_factory.mktemp(name) for name in ("pt", "safetensors")}
    functiongemma.write(made, folders["pt"])
    tensors.write(made, folders["safetensors"])
    return folders


def owned(way: str, folder: Path) -> int:
    """Bytes of its own that a process takes for a set, by a way of loading it."""
    run = subprocess.run([sys.executable, "-c", OWNED, way, folder], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux says what belongs to a process")
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_loaded_set_is_mapped(folders: dict[str, Path], kind: str) -> None:
    """Loading, checking and compiling a policy own less than a fifth of the weights."""
    assert owned("load_set", folders[kind]) < SIZE / 5


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux says what belongs to a process")
def test_the_control_owns_all_of_it(folders: dict[str, Path]) -> None:
    """PyTorch's usual loading makes the weights the process' own."""
    assert owned("torch.load", folders["pt"]) > SIZE * 0.9
