"""SAE weights are mapped, not read: a process that loads a set owns next to none of it, and keeps little in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from steerkit.kept import Kept
from steerkit.sae import Checkpoint, Columns, Sae, SaeSet, load_set
from steerkit.sae.cpu import onednn
from steerkit.sae.cpu.pages import release
from steerkit.sae.formats import functiongemma, tensors
from steerkit.sites import Site

LAYERS, D_IN, D_SAE = 4, 256, 4096
SIZE = LAYERS * 2 * D_IN * D_SAE * 4
CPU = torch.device("cpu")
MEASURED = """
import sys, torch
from pathlib import Path
from steerkit.sae import load_set
from steerkit.sae.cpu.packed_sae import LaidOutSae
from steerkit.steer import compile_plan
from steerkit.testing import planted_policy

def held():
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    sizes = {words[0]: int(words[1]) * 1024 for words in lines}
    return sizes["Anonymous:"], sizes["Rss:"] - sizes["Anonymous:"]

torch.randn(64, 64) @ torch.randn(64, 64)
way, folder = sys.argv[1:]
own, files = held()
if way == "torch.load":
    saes = [torch.load(path, weights_only=True) for path in sorted(Path(folder).glob("*.pt"))]
else:
    saes = load_set(folder)
    edit = {"f": {"clamp": 1}}
    policy = planted_policy("p", {"f": (1, 7)}, steer=[{"name": "r", "where": "any", "edit": edit}], guard=None)
    plan = compile_plan([(policy,)], saes)
    assert saes.fingerprint
if way == "trace":
    features = [sae.encode(torch.randn(4, sae.d_in)) for sae in saes.values()]
if way == "laid out":
    with torch.no_grad():
        copies = [LaidOutSae(sae) for sae in saes.values()]
        features = [sae.encode(torch.randn(4, sae.d_in)) for sae in copies]
print(*(now - before for now, before in zip(held(), (own, files))))
"""
linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux says what belongs to a process")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One set in both of our formats."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for layer in range(LAYERS):
        rows = torch.randn(D_SAE, D_IN, generator=draw)
        sae = Sae(rows.T.contiguous(), torch.zeros(D_SAE), rows, torch.zeros(D_IN))
        made.append(Checkpoint(Path(), "steerkit/random", Site(layer), sae))
    folders = {name: tmp_path_factory.mktemp(name) for name in ("pt", "safetensors")}
    functiongemma.write(made, folders["pt"])
    tensors.write(made, folders["safetensors"])
    return folders


def measured(way: str, folder: Path) -> tuple[int, int]:
    """Bytes of its own and bytes of mapped files that a process holds of a set, by what it did with it."""
    run = subprocess.run([sys.executable, "-c", MEASURED, way, folder], capture_output=True, text=True, check=True)
    own, files = map(int, run.stdout.split())
    return own, files


@linux
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_loaded_set_is_mapped(folders: dict[str, Path], kind: str) -> None:
    """Loading, checking, compiling a policy and the fingerprint own less than a fifth of the weights."""
    assert measured("plan", folders[kind])[0] < SIZE / 5


@linux
def test_the_control_owns_all_of_it(folders: dict[str, Path]) -> None:
    """PyTorch's usual loading makes the weights the process' own."""
    assert measured("torch.load", folders["pt"])[0] > SIZE * 0.9


@linux
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_only_what_is_watched_stays_in_memory(folders: dict[str, Path], kind: str) -> None:
    """Every weight was read for the checks and the fingerprint; the files' pages stay only where a full trace asks."""
    assert measured("plan", folders[kind])[1] < SIZE / 4
    assert measured("trace", folders[kind])[1] > SIZE * 0.45  # the encoders


@linux
@pytest.mark.skipif(not onednn.supports(torch.float32), reason="no oneDNN here")
def test_a_laid_out_encoder_stands_for_the_files_pages(folders: dict[str, Path]) -> None:
    """Copied for a full trace, the encoders are the process' own, and the files' pages are given back."""
    own, files = measured("laid out", folders["pt"])
    assert SIZE * 0.45 < own < SIZE
    assert files < measured("trace", folders["pt"])[1] - SIZE / 4


def test_a_released_tensor_reads_as_before(folders: dict[str, Path]) -> None:
    """Giving pages back changes no number, of the file or of what lies in memory."""
    sae = load_set(folders["pt"])[0]
    for tensor in (sae.W_enc, torch.randn(512, 512)):
        before = tensor.clone()
        release(tensor)
        assert torch.equal(tensor, before)


@linux
def test_weights_that_were_changed_in_place_are_not_given_back(folders: dict[str, Path]) -> None:
    """A private page would come back as the file has it: one changed number keeps them all."""
    weights = load_set(folders["pt"])[0].W_enc
    weights[200, 3000] = 7.0
    release(weights)
    assert weights[200, 3000] == 7.0


def test_columns_are_gathered_once(folders: dict[str, Path]) -> None:
    """The same features are the same tensors, others are not, and all are what the SAE itself gives."""
    saes = load_set(folders["pt"])
    first, other = saes.columns(1, [7, 9], CPU), saes.columns(1, [7, 10], CPU)
    assert saes.columns(1, [7, 9], CPU) is first
    assert saes.columns(2, [7, 9], CPU) is not first
    for kept, indices in ((first, [7, 9]), (other, [7, 10])):
        plain = saes[1].columns(torch.tensor(indices))
        for part, expected in zip(kept[:3], plain[:3], strict=True):
            assert torch.equal(part, expected)


def test_what_is_kept_serves_gradients(folders: dict[str, Path]) -> None:
    """Columns and copies that a generation was the first to ask for may be differentiated through."""
    saes = load_set(folders["pt"])
    with torch.inference_mode():
        columns, copy = saes.columns(1, [7], CPU), saes.on(1, CPU, torch.float64)
    weights = torch.ones(D_IN, requires_grad=True)
    ((weights @ columns.W_enc).sum() + (weights.double() @ copy.W_enc).sum()).backward()
    assert weights.grad is not None


def test_kept_columns_are_bounded() -> None:
    """The least recently used go first, and columns over the limit are handed out without being kept."""
    made = []

    def get(kept: Kept[int, Columns], index: int, count: int = 1) -> Columns:
        def make() -> Columns:
            made.append(index)
            return Columns(torch.zeros(10, count), torch.zeros(count), torch.zeros(count, 10))

        return kept.get(index, make)

    def bounded(limit: int) -> Kept[int, Columns]:
        return Kept(limit, lambda columns: columns.bytes)

    kept = bounded(3 * get(bounded(0), 0).bytes)
    made.clear()
    for index in (1, 2, 3, 1, 4, 1, 2):  # 4 drops 2, which the last one makes again in the place of 3
        get(kept, index)
        assert kept.weight <= 3 * 84
    assert made == [1, 2, 3, 4, 2]
    get(kept, 9, count=4)
    get(kept, 1)
    assert made == [1, 2, 3, 4, 2, 9]


def test_columns_of_topk_saes_share_their_whole() -> None:
    """A TopK SAE in bfloat16 is made float32 once, whichever features are read."""
    rows = torch.randn(32, 8, dtype=torch.bfloat16)
    sae = Sae(rows.T, torch.zeros(32).bfloat16(), rows, torch.zeros(8).bfloat16(), k=4)
    saes = SaeSet("s", [Checkpoint(Path(), "m", Site(0), sae)])
    first, second = (saes.columns(0, [index], CPU).whole for index in (3, 5))
    assert first is not None
    assert first.W_enc.dtype == torch.float32
    assert second is not None
    assert first.W_enc.data_ptr() == second.W_enc.data_ptr()
