"""The model in the box, loaded once for all tests; state of the tests stays in their own folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# A process of the tests has one core: threads of several that wait for each other cost more than they bring. This is
# read when torch loads, so it stands above the imports that do.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import steerkit
from steerkit.agent import Runtime
from steerkit.tiny.demo_requests import policy_files


@pytest.fixture(autouse=True, scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`$STEERKIT_HOME` for this run."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("STEERKIT_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """The model in the box with its shipped policies and a store of its own."""
    return steerkit.load("tiny", policy=policy_files(), audit=tmp_path_factory.mktemp("audit") / "audit.db")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)
