"""Fingerprints: one hash, whatever the content comes in."""

from __future__ import annotations

import pytest

from steerkit.fingerprints import Part, sha256_of

OF_ABC = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""FIPS 180-2's own example."""


@pytest.mark.parametrize("content", ["abc", b"abc", ["a", b"b", memoryview(b"c")], iter(("ab", b"", "c"))])
def test_content_has_one_fingerprint(content: str | bytes | list[Part]) -> None:
    """As text, as bytes and in parts; the parts of another content have another."""
    assert sha256_of(content) == OF_ABC
    assert sha256_of(["ab", "C"]) != OF_ABC
    assert sha256_of("ü") == sha256_of(b"\xc3\xbc")
