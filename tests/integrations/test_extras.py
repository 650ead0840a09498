"""Members whose library is not installed: one line that names the extra."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("member", "library"),
    [
        ("inspect", "inspect_ai"),
        ("pydantic_ai", "pydantic_ai"),
        ("smolagents", "smolagents"),
        ("langchain", "langchain_core"),
        ("langchain", "langgraph"),
        ("openai_agents", "agents"),
        ("mcp", "mcp"),
    ],
)
def test_without_the_library_one_line_names_the_extra(member: str, library: str) -> None:
    """In a process that cannot import it."""
    code = f"import sys; sys.modules['{library}'] = None; import steerkit.integrations.{member}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = f"steerkit.integrations.{member} needs the extra '{member}': pip install -e '.[{member}]'"
    assert said in done.stderr.splitlines()[-1]
