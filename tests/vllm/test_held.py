"""Held calls on this engine: the server's own tests of them, on a store of their own."""

from __future__ import annotations

from tests.server.test_approvals import (
    test_a_decision_is_made_once,
    test_an_id_is_of_one_call,
    test_calls_of_others_are_checked,
    test_the_counts_are_those_of_what_was_asked,
)

__all__ = [
    "test_a_decision_is_made_once",
    "test_an_id_is_of_one_call",
    "test_calls_of_others_are_checked",
    "test_the_counts_are_those_of_what_was_asked",
]
