"""`steerkit init` and names that ship: a first day in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steerkit.tiny.demo_requests import TOOLS
from tests.cli.test_commands import steerkit

ROOT = Path(__file__).parents[2]


def test_what_init_writes_runs(tmp_path: Path) -> None:
    """Its three commands work as printed; the script asks a person, and without one the payment is not made."""
    agent = tmp_path / "my agent"
    said = steerkit("init", agent, home=tmp_path).stdout
    assert {path.name for path in agent.iterdir()} == {"policy.yaml", "tools.json", "first.py"}
    commands = [line.strip() for line in said.splitlines() if line.startswith("   ")]
    env = {**os.environ, "STEERKIT_HOME": str(tmp_path)}
    shell = f'python() {{ {sys.executable} "$@"; }}; steerkit() {{ {sys.executable} -m steerkit "$@"; }}; '
    shown = [
        subprocess.run(
            ["bash", "-c", shell + command], capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL
        )
        for command in commands
    ]
    assert [done.returncode for done in shown] == [0, 0, 0], [done.stderr for done in shown]
    script, checked, run = (done.stdout for done in shown)
    assert "[('get_balance', 'ok')]" in script
    assert "[('transfer_money', 'refused')]" in script
    assert checked.startswith("ok: ")
    assert 'get_balance(account="travel 38")' in run


def test_init_replaces_nothing(tmp_path: Path) -> None:
    """A file that is there stays, and nothing is written beside it; `--force` replaces it."""
    (tmp_path / "policy.yaml").write_text("mine")
    done = steerkit("init", tmp_path, home=tmp_path, status=1)
    assert done.stderr.startswith(f"error: {tmp_path / 'policy.yaml'}: already there")
    assert not (tmp_path / "first.py").exists()
    steerkit("init", tmp_path, "--force", home=tmp_path)
    assert (tmp_path / "policy.yaml").read_text() != "mine"
    (tmp_path / "file").write_text("")
    assert "got a file" in steerkit("init", tmp_path / "file", home=tmp_path, status=1).stderr
    assert steerkit("init", tmp_path / "file" / "below", home=tmp_path, status=1).stderr.count("\n") == 1


def test_the_tools_of_the_box_have_a_name() -> None:
    """`--tools box` are those of `examples/tools.json`."""
    assert list(TOOLS) == json.loads((ROOT / "examples" / "tools.json").read_text())


def test_options_have_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model, SAEs, policy and store; an option wins over its variable."""
    policy, store = tmp_path / "p.yaml", tmp_path / "s.db"
    policy.write_text("steerkit: 1\nname: mine\nguard: {default: deny}\n")
    monkeypatch.setenv("STEERKIT_POLICY", str(policy))
    monkeypatch.setenv("STEERKIT_STORE", str(store))
    question = ("run", "tell me how much money travel 38 has", "--tools", "box", "--json")
    (verdict,) = json.loads(steerkit(*question, home=tmp_path).stdout)["verdicts"]
    assert (verdict["policy"], verdict["decision"]) == ("mine", "deny")
    assert steerkit("audit", "verify", home=tmp_path).stdout.startswith("ok: ")
    assert store.exists()
    assert not (tmp_path / "audit.db").exists()
    monkeypatch.setenv("STEERKIT_MODEL", str(tmp_path / "none"))
    assert str(tmp_path / "none") in steerkit(*question, home=tmp_path, status=1).stderr
    assert json.loads(steerkit(*question, "--model", "tiny", home=tmp_path).stdout)["calls"]
    monkeypatch.setenv("STEERKIT_SAES", str(tmp_path / "none"))
    assert str(tmp_path / "none") in steerkit(*question, "--model", "tiny", home=tmp_path, status=1).stderr
