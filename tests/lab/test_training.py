"""Training many SAEs from one pass of the model: what is learned, that sharing changes nothing, and resuming."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from steerkit.errors import SaeError
from steerkit.lab.activations import collect
from steerkit.lab.reader import ActivationReader
from steerkit.lab.train.learner import Learner, Workspace
from steerkit.lab.train.pipeline import Output, train_set
from steerkit.lab.train.publish import finished_sae
from steerkit.lab.train.recipe import KINDS, Recipe, recipe
from steerkit.lab.train.run_folder import Run
from steerkit.lab.train.stream import epoch_chunks, steps
from steerkit.lab.train.trainer import identity, train
from steerkit.lab.workers.ranks import Processes
from steerkit.sae import load_set
from steerkit.sites import Site
from steerkit.testing import SMALL, random_model

TINY = {"d_sae": 48, "epochs": 2, "buffer": 200, "texts": 1}


@pytest.fixture(scope="module")
def model():
    return random_model({**SMALL, "initializer_range": 0.5})


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 60, (24,), generator=generator).tolist()
    return [torch.randint(1, 1000, (length,), generator=generator).tolist() for length in lengths]


def test_layers_side_by_side_are_layers_alone(model, texts):
    """Three layers trained from one pass equal each trained by itself; other seeds, the control, do not."""
    together = train(model, texts, Recipe(**TINY))
    for layer in (0, 1, 2):
        alone = train(model, texts, Recipe(**TINY), layers=[layer])[Site(layer)]
        for one, other in zip(together[Site(layer)].learner.weights, alone.learner.weights, strict=True):
            assert torch.allclose(one, other, atol=1e-6)
        assert together[Site(layer)].history.loss == pytest.approx(alone.history.loss)
    other_seed = train(model, texts, Recipe(**TINY), layers=[0], seed=1)[Site(0)]
    assert not torch.allclose(together[Site(0)].learner.weights.W_enc, other_seed.learner.weights.W_enc, atol=1e-3)


def test_the_seeds_recipe_is_plain_autograd(model, texts):
    """One layer equals a loop with autograd, an unfused AdamW and clip_grad_norm_, text by text."""
    settings = Recipe(**{**TINY, "epochs": 1}, precision="float32", max_norm=0.05)
    trained = train(model, texts, settings, layers=[1])[Site(1)]
    lengths = [len(text) for text in texts]
    chunks = epoch_chunks(lengths, settings, 0, 0)
    first = collect(model, [texts[index] for index in chunks[0].texts], [1])[0].clamp(-10, 10)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(48, first.shape[1], generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    start = (rows.T.clone(), -(first.mean(0) @ rows.T), rows.clone(), first.mean(0))
    W_enc, b_enc, W_dec, b_dec = parts = [part.requires_grad_() for part in start]
    optimizer = torch.optim.AdamW(parts, lr=1e-4, weight_decay=0.0, fused=False)
    clipped = 0
    for index in (index for chunk in chunks for index in chunk.texts):
        x = collect(model, [texts[index]], [1])[0].clamp(-10, 10)
        features = torch.relu(x @ W_enc + b_enc)
        loss = (features @ W_dec + b_dec - x).square().mean() + 0.01 * features.sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        clipped += float(torch.nn.utils.clip_grad_norm_(parts, 0.05)) > 0.05
        optimizer.step()
    assert clipped > 0
    for one, other in zip(trained.learner.weights, parts, strict=False):
        assert torch.allclose(one, other.detach(), atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_recipe_lowers_its_error(kind, model, texts):
    """After 15 epochs an SAE leaves less than half of the error that it started with, and its file says its kind."""
    settings = recipe(kind, **{**TINY, "epochs": 15}, k=8, rate=3e-3, sparsity=1e-4)
    history = train(model, texts, settings, layers=[1])[Site(1)].history
    assert history.mse[-1] < 0.5 * history.mse[0]
    assert len(history.mse) == len(history.l0) == len(history.loss) == 15


@pytest.mark.parametrize("kind", KINDS)
def test_saved_saes_compute_what_was_trained(kind, model, texts, tmp_path):
    """The file's SAE has the error and L0 of the last step on raw activations, scale and row lengths folded in."""
    settings = recipe(kind, **{**TINY, "epochs": 4}, k=8, rate=1e-3)
    saes = train_set(model, texts, settings, Output(tmp_path / "out", "small"), layers=[1])
    sae = load_set(tmp_path / "out")[1]
    assert sae.kind == {"seed": "relu", "normalised": "relu"}.get(kind, kind)
    x = collect(model, texts, [1])[0]
    output, features = sae(x)
    history = saes.checkpoints[Site(1)].history
    assert float((output - x).square().mean()) == pytest.approx(history.mse[-1], rel=0.25)
    assert float((features > 0).sum(-1).float().mean()) == pytest.approx(history.l0[-1], rel=0.25)
    if kind != "seed":
        assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(48), atol=1e-5)


def test_dead_features_start_again(model, texts):
    """Features forced to be silent fire again after training with resampling; left alone, the control, they do not."""

    def alive(dead_after):
        settings = recipe("normalised", **{**TINY, "epochs": 6}, dead_after=dead_after)
        x = collect(model, texts, [1])[0]
        learner = Learner(x, settings, 0)
        learner.weights.b_enc[:20] = -100.0
        space = Workspace(learner.weights, torch.float32)
        with torch.no_grad():
            for _ in range(10):
                learner.step(x, space)
                learner.restart_dead(x)
        return int((finished_sae(learner).encode(x)[:, :20] > 0).any(0).sum())

    assert alive(dead_after=1000) >= 15
    assert alive(dead_after=10**9) == 0


def test_epochs_visit_every_token_once(texts):
    """In steps of texts and of random tokens, each token of each text is trained on once; the orders differ."""
    lengths = [len(text) for text in texts]
    for settings in (Recipe(**{**TINY, "texts": 3}), Recipe(**TINY, tokens=16)):
        orders = []
        for epoch in (0, 1):
            chunks = epoch_chunks(lengths, settings, 0, epoch)
            assert sorted(index for chunk in chunks for index in chunk.texts) == list(range(len(texts)))
            assert max(chunk.tokens for chunk in chunks) <= 200
            for number, chunk in enumerate(chunks):
                rows = torch.cat(list(steps(chunk, lengths, settings, 0, epoch, number)))
                assert sorted(rows.tolist()) == list(range(chunk.tokens))
            orders.append([chunk.texts for chunk in chunks])
        assert orders[0] != orders[1]


def test_memory_holds_a_bufferful(model, texts):
    """No read asks for more tokens than the buffer; all texts together, the control, are many times that."""
    seen = []

    class Watched(ActivationReader):
        def __call__(self, texts):
            seen.append(sum(map(len, texts)))
            return super().__call__(texts)

    total = sum(part.shape[1] for part in Watched(model, [0]).chunks(texts, 100))
    assert max(seen) <= 100
    assert total == sum(map(len, texts)) > 4 * 100


def test_readers_share_the_work(model, texts):
    """What two processes read apart, put together, is what one reads; each by itself, the control, lacks a part."""
    texts = 4 * texts  # so that there is more than one batch
    whole = ActivationReader(model, [0, 1, 2])(texts)

    class Apart(Processes):
        def join(self, parts):
            return parts

    halves = [ActivationReader(model, [0, 1, 2], Apart(index, 2))(texts) for index in (0, 1)]
    assert torch.equal(halves[0] + halves[1], whole)
    assert not torch.equal(halves[0], whole)


SCRIPT = """
import sys, json, torch
from pathlib import Path
from steerkit.testing import SMALL, random_model
from steerkit.lab.workers.ranks import processes
from steerkit.lab.train.recipe import recipe
from steerkit.lab.train.pipeline import Output, train_set
torch.set_num_threads(1)
def report(beat):
    print(beat.tokens, flush=True)
output = Output(Path(sys.argv[1]), "small", save_every=300)
texts, settings = json.loads(Path(sys.argv[2]).read_text()), recipe("seed", **json.loads(sys.argv[3]))
train_set(random_model({**SMALL, "initializer_range": 0.5}), texts, settings, output, group=processes(), report=report)
"""
LONG = {"d_sae": 48, "epochs": 3, "buffer": 200, "texts": 1}


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def arguments(texts, tmp_path):
    """What the script is given after the folder."""
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(texts))
    return [str(path), json.dumps(LONG)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def standing(folder: Path) -> int:
    """Tokens in a run's last good checkpoint."""
    tokens: int = json.loads((folder / "training.json").read_text())["position"][2]
    return tokens


def test_a_killed_run_goes_on_to_the_same_files(model, texts, arguments, one_thread, tmp_path):
    """Killed with SIGKILL after a checkpoint and begun again, a run ends with the bytes of one left in peace."""
    settings = recipe("seed", **LONG)
    train_set(model, texts, settings, Output(tmp_path / "peace", "small"))
    folder = tmp_path / "killed"
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), *arguments], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if float(line) > 1000:
                killed.send_signal(signal.SIGKILL)
                break
    assert killed.returncode == -signal.SIGKILL
    assert 300 <= standing(folder) < 3 * sum(map(len, texts))
    assert not list(folder.glob("sae_layer_*"))
    beats = []
    train_set(model, texts, settings, Output(folder, "small"), report=beats.append)
    assert beats[0].tokens > 300  # it did not begin again
    assert files(folder) == files(tmp_path / "peace")
    assert set(files(folder)) == {"README.md", "training.json", *(f"sae_layer_0{layer}.pt" for layer in range(3))}


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_goes_on_to_the_same_files(kind, model, texts, tmp_path):
    """In every recipe, dead features and all; a run that goes on from another state, the control, ends elsewhere."""
    settings = recipe(kind, **LONG, k=8, dead_after=400, tokens=16)

    def interrupt(beat):
        if beat.tokens > 1000:
            raise KeyboardInterrupt

    train_set(model, texts, settings, Output(tmp_path / "peace", "small"))
    output = Output(tmp_path / "broken", "small", save_every=300)
    with pytest.raises(KeyboardInterrupt):
        train_set(model, texts, settings, output, report=interrupt)
    assert standing(tmp_path / "broken") > 300
    shutil.copytree(tmp_path / "broken", tmp_path / "changed")
    (path,) = (tmp_path / "changed").glob("checkpoint-*/layer_02.pt")
    state = torch.load(path, weights_only=True)
    state["weights"]["b_dec"] += 1e-3
    torch.save(state, path)
    for name in ("broken", "changed"):
        train_set(model, texts, settings, Output(tmp_path / name, "small"))
    assert files(tmp_path / "broken") == files(tmp_path / "peace")
    assert files(tmp_path / "changed") != files(tmp_path / "peace")


def test_two_processes_give_what_one_gives(model, texts, arguments, one_thread, tmp_path):
    """Two processes over gloo, started by accelerate's launcher, write the files of one process, to the byte."""
    train_set(model, texts, recipe("seed", **LONG), Output(tmp_path / "one", "small"))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    options = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, *launch, *options, str(tmp_path / "two"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_more_processes_than_layers_are_refused(model, texts):
    """The error says how many can share the work."""
    with pytest.raises(SaeError, match=r"got 4 processes for 3 layers.*at most 3"):
        Processes(0, 4).share([0, 1, 2])
    assert Processes(1, 2).share([0, 1, 2]) == [1]


def test_a_full_disk_keeps_the_last_good_checkpoint(model, texts, small_disk, tmp_path):
    """Where a save finds no room, the error says so and the checkpoint before is whole: with room the run goes on."""
    folder, other = small_disk / "run", small_disk / "other"

    def fill(beat):
        if beat.tokens > 700 and not other.exists():
            with other.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))

    settings = recipe("seed", **LONG)
    with pytest.raises(SaeError, match=r"No space left on device.*is kept: make room and give the same command"):
        train_set(model, texts, settings, Output(folder, "small", save_every=300), report=fill)
    stood = standing(folder)
    assert [path.name for path in folder.glob("checkpoint-*")] == [f"checkpoint-{stood}"]
    other.unlink()
    beats = []
    train_set(model, texts, settings, Output(folder, "small", save_every=300), report=beats.append)
    assert beats[0].tokens > stood > 0
    train_set(model, texts, settings, Output(tmp_path / "peace", "small"))
    assert files(folder) == files(tmp_path / "peace")


def test_a_disk_too_small_for_the_first_checkpoint_is_said(model, texts, small_disk):
    """Nothing to go on from is said as well, and no half a checkpoint is left."""
    (small_disk / "other").write_bytes(bytes(900_000))
    with pytest.raises(SaeError, match=r"No space left on device.*there is none before it"):
        train_set(model, texts, recipe("seed", **LONG), Output(small_disk / "run", "small", save_every=300))
    assert [path.name for path in (small_disk / "run").iterdir()] == ["training.json"]


def test_a_folder_of_another_run_is_refused(model, texts, tmp_path):
    """Another recipe, other data or foreign files: each is one error that says what is there."""
    output = Output(tmp_path / "out", "small")
    train_set(model, texts, Recipe(**{**TINY, "epochs": 1}), output, layers=[0])
    with pytest.raises(SaeError, match=r"holds another run \(recipe.epochs: there 1, here 2\); give another DIR"):
        train_set(model, texts, Recipe(**TINY), output, layers=[0])
    with pytest.raises(SaeError, match=r"data.texts: there 24, here 23"):
        train_set(model, texts[:-1], Recipe(**{**TINY, "epochs": 1}), output, layers=[0])
    before = files(tmp_path / "out")
    train_set(model, texts, Recipe(**{**TINY, "epochs": 1}), output, layers=[0])
    assert files(tmp_path / "out") == before  # finished: nothing is done twice
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(SaeError, match="exists and holds no run of this command"):
        train_set(model, texts, Recipe(**TINY), Output(tmp_path / "mine", "small"))
    assert files(tmp_path / "mine") == {"notes.txt": b"keep me"}


def test_a_broken_checkpoint_is_said(model, texts, tmp_path):
    """A checkpoint cut in half is one clear error, not a fresh start."""
    what = identity(texts, Recipe(**TINY), [Site(0)], 0, "small", torch.float32)
    run = Run(tmp_path / "out", what, Processes())
    train(model, texts, Recipe(**TINY), layers=[0], run=run, save_every=100)
    (path,) = (tmp_path / "out").glob("checkpoint-*/layer_00.pt")
    path.write_bytes(path.read_bytes()[:1000])
    again = Run(tmp_path / "out", what, Processes())
    with pytest.raises(SaeError, match=r"layer_00.pt: the checkpoint cannot be read"):
        train(model, texts, Recipe(**TINY), layers=[0], run=again)


BAD = {
    "kind": ({"kind": "sparse"}, "recipe.kind: got 'sparse', expected one of seed, normalised, topk, jumprelu"),
    "k": ({"kind": "topk", "k": 65, "d_sae": 64}, r"recipe.k: got 65, expected 1 to d_sae \(64\)"),
    "rate": ({"rate": 0.0}, "recipe.rate: got 0.0, expected more than 0"),
    "epochs": ({"epochs": 0}, "recipe.epochs: got 0, expected at least 1"),
    "precision": ({"precision": "half"}, "recipe.precision: got 'half'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recipes_are_refused(case):
    """A setting that cannot be is named, with what was got and expected."""
    changes, message = BAD[case]
    with pytest.raises(SaeError, match=message):
        Recipe(**changes)


def test_no_texts_and_strange_layers_are_refused(model):
    """Nothing to train on, and a layer that the model lacks."""
    with pytest.raises(SaeError, match="texts: got none"):
        train(model, [], Recipe(**TINY))
    with pytest.raises(SaeError, match="layers: got 7, expected 0 to 2"):
        train(model, [[1, 2]], Recipe(**TINY), layers=[7])
