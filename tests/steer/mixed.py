"""Many requests of the box under policies of their own, and how their traces are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import pytest

from steerkit.types import Trace

KINDS = ("dangerous:transfer_money", "injected", "benign", "single", "parallel", "injected_clean", "dangerous")
"""Kinds of conversation, eight of each; some replies of each policy change."""


def check_traces(found: Sequence[Trace], expected: Sequence[Trace]) -> None:
    """Watched values and edits are those of other traces, up to the rounding of products of other shapes."""
    for one, other in zip(found, expected, strict=True):
        assert one.features == other.features
        assert one.watched.keys() == other.watched.keys()
        for name, values in one.watched.items():
            assert values == pytest.approx(other.watched[name], abs=2e-4)
        assert [edit[:4] for edit in map(astuple, one.edits)] == [edit[:4] for edit in map(astuple, other.edits)]
        assert [edit.norm for edit in one.edits] == pytest.approx([edit.norm for edit in other.edits], rel=1e-3)
