"""Writes down what happened: canonical, chained by hashes, on disk before a turn is returned. Loads no torch."""

from steerkit.audit.canonical import canonical, plain
from steerkit.audit.compare import Comparison, Difference, compare, compare_verdicts
from steerkit.audit.diff import Node, diff_calls
from steerkit.audit.events import append_approval, append_execution, approvals_of
from steerkit.audit.export import FORMATS, export, whole
from steerkit.audit.home import default_store, home
from steerkit.audit.layout import StoredRecord, new_id
from steerkit.audit.note import Checkpoint, SignerKey, VerifierKey
from steerkit.audit.privacy import redact, retain
from steerkit.audit.private import openings
from steerkit.audit.proof import (
    check_consistency,
    check_inclusion,
    checkpoint,
    portable,
    prove,
    prove_consistency,
)
from steerkit.audit.query import Query, find, nearest
from steerkit.audit.record import Context, append_turn, body_of, verdict_data
from steerkit.audit.recorded import RecordedTurn, read_turn, turns_of
from steerkit.audit.run import OnFailure, RunLog, opening_of, policies_of
from steerkit.audit.seen import unseen
from steerkit.audit.shapes import DECISIONS, KINDS, legible, read_content
from steerkit.audit.store import OnRecord, Store
from steerkit.audit.tables import TABLES
from steerkit.audit.telemetry import Spans
from steerkit.audit.trace import pack, unpack
from steerkit.audit.verify import Verified, check_tables, verify

__all__ = [
    "DECISIONS",
    "FORMATS",
    "KINDS",
    "TABLES",
    "Checkpoint",
    "Comparison",
    "Context",
    "Difference",
    "Node",
    "OnFailure",
    "OnRecord",
    "Query",
    "RecordedTurn",
    "RunLog",
    "SignerKey",
    "Spans",
    "Store",
    "StoredRecord",
    "Verified",
    "VerifierKey",
    "append_approval",
    "append_execution",
    "append_turn",
    "approvals_of",
    "body_of",
    "canonical",
    "check_consistency",
    "check_inclusion",
    "check_tables",
    "checkpoint",
    "compare",
    "compare_verdicts",
    "default_store",
    "diff_calls",
    "export",
    "find",
    "home",
    "legible",
    "nearest",
    "new_id",
    "opening_of",
    "openings",
    "pack",
    "plain",
    "policies_of",
    "portable",
    "prove",
    "prove_consistency",
    "read_content",
    "read_turn",
    "redact",
    "retain",
    "turns_of",
    "unpack",
    "unseen",
    "verdict_data",
    "verify",
    "whole",
]
