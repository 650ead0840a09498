"""Clients that people use, unchanged, each as its example on a real socket."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.documents import ROOT
from tests.server.serving import Served

ANSWER = "tell me how much money travel 38 has -> The balance of travel 38 is 1200."
RAN = "  ran get_balance('travel 38')"
WAITS = "please open the south cellar door -> [unlock_door waits for a person"
OPENED = "  ran unlock_door('south cellar')"
CALLED = 'tool_calls: get_balance({"account":"travel 38"})'
CLIENTS = {
    "openai": ("openai", [RAN, ANSWER, WAITS, OPENED, "  approved: opened"]),
    "openai_agents": ("agents", [RAN, ANSWER, RAN, ANSWER, "  approving unlock_door", OPENED, WAITS]),
    "langchain": ("langchain_openai", [RAN, ANSWER, WAITS, RAN, ANSWER, WAITS]),
    "pydantic_ai": ("pydantic_ai", [RAN, ANSWER, RAN, ANSWER]),
    "smolagents": ("smolagents", [RAN, "tell me how much money travel 38 has -> 1200 dollars"]),
    "litellm": ("litellm", [CALLED, "tool_calls: get_balance"]),
    "inspect": ("inspect_ai", [RAN, "success 1.0"]),
}
"""By example, its package, and the beginnings of lines that it prints, in order."""
SLOW = ("litellm", "inspect")
"""Imports of these take five seconds."""


TOGETHER = """
import runpy, sys, traceback
for name in sys.argv[1:]:
    print("==", name)
    try:
        runpy.run_path(f"examples/client_{name}.py", run_name="__main__")
    except BaseException:
        traceback.print_exc(file=sys.stdout)
"""
"""One process for several: most of what they import is the same."""


def printed(served: Served, *names: str) -> dict[str, list[str]]:
    """Lines that each client prints."""
    env = {**os.environ, "STEERKIT_URL": f"{served.url}/v1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    env |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}", "INSPECT_LOG_DIR": env["STEERKIT_HOME"]}
    words = [sys.executable, "-c", TOGETHER, *names]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    parts = [part.splitlines() for part in done.stdout.split("== ")[1:]]
    assert [part[0] for part in parts] == list(names), done.stderr
    return {part[0]: part[1:] for part in parts}


@pytest.fixture(scope="module")
def quick(served: Served) -> dict[str, list[str]]:
    """Lines of those that import quickly."""
    return printed(served, *(name for name in CLIENTS if name not in SLOW and find_spec(CLIENTS[name][0])))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CLIENTS]
)
def test_a_client_talks_to_it(served: Served, quick: dict[str, list[str]], name: str) -> None:
    """Calls run whose record is on disk, and a held one only once it was approved."""
    package, wanted = CLIENTS[name]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install -e '.[clients,examples]'")
    lines = quick[name] if name in quick else printed(served, name)[name]
    rest = iter(lines)
    for start in wanted:
        assert any(line.startswith(start) for line in rest), "\n".join([start, *lines])
    turns = [one.content for one in served.store.records() if one.content["kind"] == "turn"]
    assert sum(any(call["name"] == "get_balance" for call in turn["calls"]) for turn in turns) >= len(quick)


def test_every_example_of_a_client_is_run_and_short() -> None:
    """Each file is in the table, and has at most 30 lines, blank ones and its docstring apart."""
    files = {path.stem.removeprefix("client_"): path for path in (ROOT / "examples").glob("client_*.py")}
    assert set(files) == set(CLIENTS)
    for path in files.values():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith('"""')]
        assert len(lines) <= 30, path.name
