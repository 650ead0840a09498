"""How the package is installed: no message names somebody else's package, and a wheel works in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from steerkit.errors import MissingExtraError
from tests.test_architecture import FILES, module_of, modules

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXTS = [
    path
    for folder in ("steerkit", "examples", "benchmarks", "policies", "tests", ".ci")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".yaml", ".txt", ".toml", "") and path.is_file() and path != Path(__file__)
] + [ROOT / name for name in ("README.md", "CHANGELOG.md", "pyproject.toml")]
BY_NAME = re.compile(
    r"""(?:pip|uv|pipx)\b[^\n&|;]*\binstall\b[^\n&|;]*[\s'"]steerkit(?=[\[=<>~!\s`]|['"](?![a-z])|$)"""
)
EXTRA = re.compile(r"\.\[([\w,]+)\]|MissingExtraError\.of\(\s*[^\n]*?, \"(\w+)\"")


def test_nothing_installs_somebody_elses_package() -> None:
    """`steerkit` on the public index is another project: every command and message installs from this one's files."""
    assert BY_NAME.search("pip install 'steerkit[sign]'")
    assert BY_NAME.search("pip install -U steerkit")
    assert not BY_NAME.search("pip install -e '.[sign]' in steerkit's checkout")  # the controls
    found = [str(path) for path in TEXTS if BY_NAME.search(path.read_text(encoding="utf-8", errors="replace"))]
    assert found == []
    assert PROJECT["name"] == "steerkit-agents"


def test_every_extra_that_is_named_exists() -> None:
    """Commands and messages name extras of pyproject.toml."""
    named = {
        extra
        for path in TEXTS
        for match in EXTRA.finditer(path.read_text(encoding="utf-8", errors="replace"))
        for extra in (match[1] or match[2]).split(",")
    }
    assert {"test", "sign", "data", "otel", "ray", "figures", "lab", "examples", "peers"} <= named
    assert named <= set(PROJECT["optional-dependencies"])


def test_the_error_of_an_extra_says_both_ways() -> None:
    """From the checkout, and from the wheel; and what can be done without it."""
    said = str(MissingExtraError.of("signing", "sign", "or sign elsewhere"))
    assert said == (
        "signing needs the extra 'sign': pip install -e '.[sign]' in steerkit's checkout, or pip install "
        "'FILE.whl[sign]' with its wheel; or sign elsewhere"
    )


def wheel_files() -> set[str]:
    """Paths in the wheel that this checkout makes."""
    return {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}


def test_the_wheel_holds_what_runs_and_not_the_boxs_builder() -> None:
    """Box, policies, templates and starter are in it; training and the world it trains on stay in the checkout."""
    files = wheel_files()
    assert {
        "steerkit/tiny/box/model.safetensors",
        "steerkit/tiny/demo_requests.py",
        "steerkit/_policies/payments.yaml",
        "steerkit/report/templates/base.html",
        "steerkit/report/templates/look.css",
        "steerkit/cli/starter/policy.yaml",
        "steerkit/py.typed",
    } <= files
    builder = {f"steerkit/tiny/{room}/__init__.py" for room in ("training", "world")}
    assert all((ROOT / file).is_file() for file in builder)  # the control
    assert [
        file for file in sorted(files) if file.startswith(("steerkit/tiny/training/", "steerkit/tiny/world/"))
    ] == []


def test_nothing_in_the_wheel_imports_what_is_not_in_it() -> None:
    """Every module of the package that a shipped file imports is shipped."""
    files = wheel_files()
    shipped = {file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files}
    names = {module_of(path) for path in FILES}
    assert names - shipped  # the control: some are not
    lacking = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in FILES
        if module_of(path) in shipped
        for module in modules(path, names)
        if module not in shipped
    }
    assert lacking == set()


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder(tmp_path: Path) -> None:
    """Built and unpacked, it runs the demo, all the commands that it closes with, and what `init` writes."""
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(wheel, check=True)
    (built,) = tmp_path.glob("steerkit_agents-*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(tmp_path / "site"),
        str(built),
    ]
    subprocess.run(install, check=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "STEERKIT_HOME": str(tmp_path / "home")}
    shell = f'python() {{ {sys.executable} "$@"; }}; steerkit() {{ {sys.executable} -m steerkit "$@"; }}; '

    def run(command: str) -> str:
        done = subprocess.run(["bash", "-c", shell + command], cwd=empty, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    shown = run("steerkit demo")
    *commands, last = [line.strip() for line in shown.split("Look further:")[1].splitlines() if line.startswith("   ")]
    assert len(commands) == 6
    assert last.startswith("steerkit view --store ")  # it stays until it is ended
    for command in commands:
        assert run(command)
    assert run("python my-agent/first.py < /dev/null")
