"""A process that is forked while another thread generates: it is told, and does not wait for that thread."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, threading, torch
from steerkit.engine import load_model
from steerkit.errors import SteerkitError
torch.set_num_threads(2)
loaded = load_model("tiny", prepack=False)
ids = torch.arange(1, 513).unsqueeze(0)
def generate(loaded):
    with loaded.alone(), torch.no_grad():
        loaded.model(ids)  # long enough that torch asks its other threads for help
generate(loaded)
inside, leave = threading.Event(), threading.Event()
def hold():
    with loaded.alone():
        inside.set()
        leave.wait()
if sys.argv[1] == "held":
    threading.Thread(target=hold, daemon=True).start()
    inside.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)
    try:
        generate(loaded)
        print("generates", flush=True)
    except SteerkitError as error:
        print(error, flush=True)
        generate(load_model("tiny", prepack=False))
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)
leave.set()
generate(loaded)
print("the parent goes on", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(("state", "said"), [("held", "was forked while another thread"), ("free", "generates")])
def test_a_forked_process_does_not_hang(state: str, said: str) -> None:
    """Forked while the model is held it is refused, and a model of its own generates; else this one does. The parent
    goes on in both."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, state], capture_output=True, text=True, timeout=120
    )
    child, status, parent = done.stdout.splitlines()
    assert said in child, done.stderr
    assert (status, parent) == ("0", "the parent goes on")
