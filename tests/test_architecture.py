"""The house as a test: who may import whom, which room opens which heavy door, and how large a piece may get."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

import steerkit

ROOT = Path(steerkit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LINES = {
    "cli": 10,
    **dict.fromkeys(("server", "viewer", "integrations"), 9),
    **dict.fromkeys(("report", "tiny"), 8),
    "lab": 7,
    "agent": 6,
    "runtime": 5,
    **dict.fromkeys(("engine", "testing"), 4),
    **dict.fromkeys(("steer", "guard"), 3),
    **dict.fromkeys(("policy", "chat", "sae", "audit"), 2),
    **dict.fromkeys(("hub", "labels"), 1.6),
    "files": 1.5,
    **dict.fromkeys(("types", "boxes", "errors", "fingerprints", "hosts", "kept", "schemas", "version"), 1),
    **dict.fromkeys(("decisions", "sites"), 0),
}
DOORS = {
    "torch": {"sae", "steer", "engine", "runtime", "agent", "lab", "tiny", "testing"},
    "transformers": {"engine", "lab", "testing", "tiny"},
    "tokenizers": {"engine", "lab", "tiny"},
    "safetensors": {"policy", "sae", "tiny", "lab"},
    "accelerate": {"lab"},
    "agentdojo": {"lab"},
    "datasets": {"lab"},
    "matplotlib": {"lab"},
    "scipy": {"lab"},
    "sklearn": {"lab"},
    "ray": {"lab"},
    "jsonschema": {"schemas", "chat"},
    "re2": {"schemas"},
    "llguidance": {"chat"},
    "yaml": {"policy"},
    "sqlite3": {"audit"},
    "cryptography": {"audit"},
    "opentelemetry": {"audit"},
    "pyarrow": {"audit"},
    "typer": {"cli"},
    "click": {"cli"},
    "jinja2": {"report"},
    "rich": {"cli", "lab", "report", "tiny"},
    **{name: {"integrations"} for name in ("agents", "inspect_ai", "langchain", "langchain_core", "langgraph", "mcp")},
    **{name: {"integrations"} for name in ("openai", "pydantic_ai", "smolagents")},
    "prometheus_client": {"server"},
    "starlette": {"server", "viewer"},
    "uvicorn": {"server", "viewer"},
    "vllm": {"engine"},
}
WORKSHOPS = {"train", "find", "prove", "explain"}
PUBLIC = ["Policy", "Runtime", "SaeSet", "SteerkitError", "Tool", "Turn", "attach", "load"]


def imports(source: str) -> Iterator[str]:
    """Modules a source imports, in functions and for type checkers too; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "steerkit":
                yield from (f"steerkit.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def wrong_imports(room: str, source: str) -> list[str]:
    """Imports that the map does not allow a room."""
    found = []
    for module in imports(source):
        top, _, rest = module.partition(".")
        other = rest.split(".")[0]
        if top == "steerkit" and other in LINES and other != room and LINES[other] >= LINES[room]:
            found.append(f"{room} imports {module}")
        if top in DOORS and room not in DOORS[top]:
            found.append(f"{room} imports {top}")
    return found


def too_large(name: str, source: str) -> list[str]:
    """Files over 300 lines and functions over 50."""
    found = [f"{name}: {len(source.splitlines())} lines"] if len(source.splitlines()) > 300 else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            found += [f"{name}: {node.name} has {length} lines"] if length > 50 else []
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_lower_lines(path: Path) -> None:
    """Each file keeps to the map and to its room's doors, and stays small."""
    source = path.read_text(encoding="utf-8")
    assert too_large(path.name, source) == []
    if path.parent != ROOT or path.name not in ("__init__.py", "__main__.py"):
        assert room_of(path) in LINES, f"{path}: no such room on the map"
        assert wrong_imports(room_of(path), source) == []


def module_of(path: Path) -> str:
    return ".".join(("steerkit", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def modules(path: Path, names: set[str]) -> Iterator[str]:
    """Modules of the package that a file imports: of `from a import b` that is `a.b` where it is one, else `a`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ({alias.name for alias in node.names} & names)
        elif isinstance(node, ast.ImportFrom) and node.module in names:
            found = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (found & names)
            if found - names:
                yield node.module


PACKAGES = {module_of(path) for path in FILES if path.name == "__init__.py"}
MODULES = {module_of(path) for path in FILES} - PACKAGES


def past_doors(room: str, source: str) -> list[str]:
    """Modules of another room that a source imports, where only rooms and rooms within them may be.

    A name that a door exports may be called as the module that it comes from.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        parts = node.module.split(".")
        if parts[0] != "steerkit" or len(parts) < 2 or parts[1] == room:
            continue
        if node.module in MODULES and len(parts) > 2:
            found.append(f"{room} imports {node.module}")
        elif node.module in PACKAGES:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found += [f"{room} imports {name}" for name in names & MODULES if not exported(name)]
    return found


def exported(module: str) -> bool:
    """True if a room's door exports a name like that of this module in it."""
    door, _, name = module.rpartition(".")
    path = ROOT.joinpath(*door.split(".")[1:], "__init__.py")
    listed = [node.value for node in ast.parse(path.read_text(encoding="utf-8")).body if is_all(node)]
    return any(name in ast.literal_eval(value) for value in listed)


def is_all(node: ast.stmt) -> TypeGuard[ast.Assign]:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_stop_at_front_doors(path: Path) -> None:
    """Whoever uses another room names the room, or a room within it, and no file of it."""
    assert past_doors(room_of(path), path.read_text(encoding="utf-8")) == []


def test_doors_that_are_passed_are_found() -> None:
    """The control: a file of another room, by its name and as a name of the room, hidden in a function too."""
    assert past_doors("guard", "from steerkit.chat.parse import parse") == ["guard imports steerkit.chat.parse"]
    assert past_doors("guard", "from steerkit.chat import cursor") == ["guard imports steerkit.chat.cursor"]
    assert past_doors("cli", "def f():\n    from steerkit.lab.find.search import find") == [
        "cli imports steerkit.lab.find.search"
    ]
    assert past_doors("guard", "from steerkit.chat import parse, render") == []
    assert past_doors("chat", "from steerkit.chat.parse import parse") == []


def in_circles(graph: dict[str, set[str]]) -> set[str]:
    """Modules that import themselves by way of others."""
    return {one for one in graph if one in reached(graph, one)}


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Modules that one imports, directly or not."""
    found: set[str] = set()
    new = set(graph[start])
    while new:
        found |= new
        new = {other for one in new for other in graph[one]} - found
    return found


def test_imports_run_in_no_circles() -> None:
    """Inside a room too, under TYPE_CHECKING too."""
    names = {module_of(path) for path in FILES}
    graph = {module_of(path): set(modules(path, names)) - {module_of(path)} for path in FILES}
    assert in_circles(graph) == set()
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {"b", "c"}  # the control


def test_lab_workshops_stand_beside_each_other() -> None:
    """`train`, `find`, `prove` and `explain` use what the lab shares, and never each other."""
    found = []
    for path in (path for path in FILES if room_of(path) == "lab"):
        own = path.relative_to(ROOT / "lab").parts[0]
        for module in imports(path.read_text(encoding="utf-8")):
            parts = module.split(".")
            if parts[:2] == ["steerkit", "lab"] and len(parts) > 2 and parts[2] in WORKSHOPS - {own}:
                found.append(f"{path.relative_to(ROOT)} imports {module}")
    assert found == []
    assert {path.name for path in (ROOT / "lab").iterdir()} >= WORKSHOPS


def test_the_checks_can_fail() -> None:
    """Offending sources are found: upward, sideways, hidden in a function, through a heavy door, too large."""
    assert wrong_imports("policy", "def f():\n    import steerkit.runtime") == ["policy imports steerkit.runtime"]
    assert wrong_imports("guard", "from steerkit.steer import ops") == ["guard imports steerkit.steer"]
    assert wrong_imports("guard", "from steerkit import steer") == ["guard imports steerkit.steer"]
    assert wrong_imports("audit", "import torch.nn") == ["audit imports torch"]
    assert wrong_imports("runtime", "from steerkit.steer import ops\nimport torch") == []
    assert too_large("x", "def f():\n" + "    a = 1\n" * 50) == ["x: f has 51 lines"]
    assert too_large("x", "a = 1\n" * 301) == ["x: 301 lines"]


def test_the_public_surface_is_pinned() -> None:
    """These names and no others, and each of them is there."""
    assert steerkit.__all__ == PUBLIC
    assert all(getattr(steerkit, name) for name in PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = steerkit.nothing  # type: ignore[attr-defined]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOADED = "import sys; print(sorted({'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)))"


def test_importing_steerkit_loads_nothing_heavy() -> None:
    """`import steerkit` loads neither torch nor pydantic; the control shows that using it does."""
    assert run(f"import steerkit; {LOADED}") == "[]"
    assert "torch" in run(f"import steerkit; steerkit.SaeSet; {LOADED}")


@pytest.mark.parametrize("room", ["policy", "guard", "audit", "chat"])
def test_light_rooms_load_no_torch(room: str) -> None:
    """A policy is checked, a verdict recomputed and a record read without torch."""
    assert "torch" not in run(f"import steerkit.{room}; {LOADED}")


def test_importing_steerkit_takes_milliseconds() -> None:
    """Under 150 ms of CPU: the one timed test, measured inside the interpreter, the best of five."""
    code = "import time; t = time.process_time(); import steerkit; print(time.process_time() - t)"
    assert min(float(run(code)) for _ in range(5)) < 0.150
