"""A process that is forked while another thread generates: it is told, and does not wait for that thread."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys, threading, torch
torch.set_num_threads(1)
from steerkit.engine import load_model
from steerkit.errors import SteerkitError
loaded = load_model("tiny", prepack=False)
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
    try:
        with loaded.alone():
            print("generates", flush=True)
    except SteerkitError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
leave.set()
with loaded.alone():
    print("the parent goes on", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(("state", "said"), [("held", "was forked while another thread"), ("free", "generates")])
def test_a_forked_process_does_not_hang(state: str, said: str) -> None:
    """Forked while the model is held it is refused, else it generates; the parent goes on in both."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, state], capture_output=True, text=True, timeout=120
    )
    child, parent = done.stdout.splitlines()
    assert said in child, done.stderr
    assert parent == "the parent goes on"
