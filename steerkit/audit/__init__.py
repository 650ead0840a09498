"""Writes down what happened: canonical, chained by hashes, on disk before a turn is returned. Loads no torch."""

from steerkit.audit.integrity.proof import (
    check_consistency,
    check_inclusion,
    checkpoint,
    portable,
    prove,
    prove_consistency,
)
from steerkit.audit.integrity.redaction import redact, retain
from steerkit.audit.integrity.signed_note import Checkpoint, SignerKey, VerifierKey
from steerkit.audit.integrity.verify import Verified, check_tables, verify
from steerkit.audit.log.canonical import canonical, plain
from steerkit.audit.log.private import openings
from steerkit.audit.log.run_log import OnFailure, RunLog
from steerkit.audit.log.schema import StoredRecord, new_id
from steerkit.audit.log.shapes import DECISIONS, KINDS, legible, read_content
from steerkit.audit.log.store import OnRecord, Store
from steerkit.audit.log.trace_codec import pack, unpack
from steerkit.audit.paths import default_store, home
from steerkit.audit.records.call_diff import Node, diff_calls
from steerkit.audit.records.compare import Comparison, Difference, compare, compare_verdicts
from steerkit.audit.records.events import append_approval, append_execution, approvals_of
from steerkit.audit.records.export import FORMATS, export, whole
from steerkit.audit.records.opening import opening_of, policies_of
from steerkit.audit.records.query import Query, find, nearest
from steerkit.audit.records.recorded import RecordedTurn, read_turn, turns_of
from steerkit.audit.records.seen import unseen
from steerkit.audit.records.tables import TABLES
from steerkit.audit.records.telemetry import Spans
from steerkit.audit.records.turn_record import Context, append_turn, body_of, verdict_data

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
