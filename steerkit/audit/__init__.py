"""Writes down what happened: canonical, chained by hashes, on disk before a turn is returned. Loads no torch."""

from steerkit.audit.canonical import canonical, plain
from steerkit.audit.compare import Comparison, Difference, compare, compare_verdicts
from steerkit.audit.diff import Node, diff_calls
from steerkit.audit.events import append_approval, append_execution, approvals_of
from steerkit.audit.export import FORMATS, export
from steerkit.audit.home import default_store, home
from steerkit.audit.layout import StoredRecord, new_id
from steerkit.audit.note import Checkpoint, SignerKey, VerifierKey
from steerkit.audit.privacy import redact, retain
from steerkit.audit.proof import (
    check_consistency,
    check_inclusion,
    checkpoint,
    portable,
    prove,
    prove_consistency,
)
from steerkit.audit.query import Query, find
from steerkit.audit.record import Context, append_turn, body_of, verdict_data
from steerkit.audit.recorded import RecordedTurn, read_turn, turns_of
from steerkit.audit.run import OnFailure, RunLog, opening_of, policies_of
from steerkit.audit.store import OnRecord, Store
from steerkit.audit.tables import TABLES
from steerkit.audit.telemetry import Spans
from steerkit.audit.trace import pack, unpack
from steerkit.audit.verify import Verified, verify

__all__ = [
    "FORMATS",
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
    "checkpoint",
    "compare",
    "compare_verdicts",
    "default_store",
    "diff_calls",
    "export",
    "find",
    "home",
    "new_id",
    "opening_of",
    "pack",
    "plain",
    "policies_of",
    "portable",
    "prove",
    "prove_consistency",
    "read_turn",
    "redact",
    "retain",
    "turns_of",
    "unpack",
    "verdict_data",
    "verify",
]
