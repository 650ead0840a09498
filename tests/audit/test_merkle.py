"""The tree of RFC 6962: known values, and laws of its proofs."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.audit.integrity.merkle import (
    EMPTY,
    Tree,
    consistency,
    consistent,
    included,
    inclusion,
    leaf_hash,
    node_hash,
    root,
)

# The leaves and roots that the test suites of Certificate Transparency use.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = {
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (1, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH as section 2.1 writes it, with nothing of the package."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaves[:split]) + by_definition(leaves[split:])).digest()


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_known_ones(size: int) -> None:
    """Known value, definition and the growing tree agree for each size."""
    assert root(LEAVES[:size]).hex() == ROOTS[size] == by_definition(LEAVES[:size]).hex()


@pytest.mark.parametrize(("index", "size"), PATHS)
def test_paths_are_the_known_ones(index: int, size: int) -> None:
    """The audit paths of the same suites."""
    assert [one.hex() for one in inclusion(LEAVES[:size], index)] == list(PATHS[index, size])


def test_the_example_of_section_2_1_3() -> None:
    """The tree of seven leaves that the RFC draws: its paths and its consistency proofs, node by node."""
    leaves = [bytes([number]) for number in range(7)]
    a, b, c, d, e, f, j = map(leaf_hash, leaves)
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, left = node_hash(i, j), node_hash(g, h)
    assert root(leaves) == node_hash(left, k)
    assert inclusion(leaves, 0) == [b, h, k]
    assert inclusion(leaves, 3) == [c, g, k]
    assert inclusion(leaves, 4) == [f, j, left]
    assert inclusion(leaves, 6) == [i, left]
    assert consistency(leaves, 3) == [c, d, g, k]
    assert consistency(leaves, 4) == [k]
    assert consistency(leaves, 6) == [i, j, left]


logs = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


@given(leaves=logs, data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_leaf_is_included_and_no_other(leaves: list[bytes], data: st.DataObject) -> None:
    """Its path proves it; no other leaf, place, size or root, and no path with a flipped bit or another length."""
    size = len(leaves)
    index = data.draw(st.integers(0, size - 1))
    top, path = root(leaves), inclusion(leaves, index)
    assert top == by_definition(leaves)
    assert included(leaves[index], index, size, path, top)
    assert not included(leaves[index] + b"x", index, size, path, top)
    assert not included(leaves[index], size, size, path, top)
    assert not included(leaves[index], index, size, [*path, top], top)
    assert not included(leaves[index], index, size, path, flipped(top, data))
    if path:
        assert not included(leaves[index], index, size, path[:-1], top)
        at = data.draw(st.integers(0, len(path) - 1))
        wrong = [*path[:at], flipped(path[at], data), *path[at + 1 :]]
        assert not included(leaves[index], index, size, wrong, top)


@given(leaves=logs, data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_beginning_is_consistent_and_nothing_else(leaves: list[bytes], data: st.DataObject) -> None:
    """The path proves it; not of a log with another leaf in it, nor with a flipped bit in a root or in the path."""
    size = len(leaves)
    first = data.draw(st.integers(1, size))
    old, new, path = root(leaves[:first]), root(leaves), consistency(leaves, first)
    assert consistent(first, size, path, old, new)
    assert consistent(0, size, [], EMPTY, new)
    assert not consistent(first, size, path, flipped(old, data), new)
    assert not consistent(first, size, path, old, flipped(new, data))
    at = data.draw(st.integers(0, first - 1))
    others = [*leaves[:at], leaves[at] + b"x", *leaves[at + 1 :]]
    assert not consistent(first, size, consistency(others, first), old, root(others))
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        assert not consistent(first, size, [*path[:at], flipped(path[at], data), *path[at + 1 :]], old, new)
        assert not consistent(first, size, path[:-1], old, new)


def flipped(digest: bytes, data: st.DataObject) -> bytes:
    """The same but for one bit."""
    bit = data.draw(st.integers(0, 8 * len(digest) - 1))
    return bytes(byte ^ (1 << bit % 8 if number == bit // 8 else 0) for number, byte in enumerate(digest))


def test_a_growing_tree_has_the_root_of_each_size() -> None:
    """Leaf by leaf, up to 130: the same as by definition."""
    tree, leaves = Tree(), []
    for number in range(130):
        leaves.append(number.to_bytes(2, "big"))
        tree.add(leaves[-1])
        assert tree.root() == by_definition(leaves)
