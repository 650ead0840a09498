"""The record of what happened: canonical JSON, chained by hashes, on disk before a turn is returned. Loads no torch."""

from steerkit.audit.integrity.proof import (
    check_consistency,
    check_inclusion,
    checkpoint,
    portable_record,
    prove,
    prove_consistency,
)
from steerkit.audit.integrity.redaction import redact, retain
from steerkit.audit.integrity.signed_note import Checkpoint, SignerKey, VerifierKey
from steerkit.audit.integrity.verify import Verified, check_tables, verify, why_broken
from steerkit.audit.log.canonical import canonical, digest, parse_canonical, text_in_order
from steerkit.audit.log.private import exposed_files
from steerkit.audit.log.reading import named_errors, read_content, read_public
from steerkit.audit.log.run_log import OnFailure, RunLog
from steerkit.audit.log.store import OnRecord, Store
from steerkit.audit.log.stored_record import StoredRecord, new_id
from steerkit.audit.log.trace_codec import pack, unpack
from steerkit.audit.paths import default_store, home
from steerkit.audit.records.call_diff import Node, diff_calls
from steerkit.audit.records.compare import Comparison, Difference, changes, compare, compare_verdicts
from steerkit.audit.records.dates import moment
from steerkit.audit.records.export import FORMATS, export, replacing
from steerkit.audit.records.feature_values import Strong, feature_of, layer_activity, strongest_at, values_of
from steerkit.audit.records.held import ASKER, ENDPOINT, Approvals, HeldCall, HeldEntry, held_calls
from steerkit.audit.records.paging import Page, page
from steerkit.audit.records.query import Query, find, nearest
from steerkit.audit.records.recorded import RecordedTurn, approvals_of, opening_of, policies_of, read_turn, turns_of
from steerkit.audit.records.tables import TABLES
from steerkit.audit.records.telemetry import Spans
from steerkit.audit.records.turn_record import Context, append_turn, record_of
from steerkit.audit.records.unknown_names import unknown_names
from steerkit.audit.schema import (
    DECISIONS,
    KINDS,
    RECORDS,
    ApprovalRecord,
    Counterfactual,
    ExecutionRecord,
    Gone,
    ModelIdentity,
    OtherRecord,
    PolicyIdentity,
    Record,
    RedactionRecord,
    RetentionRecord,
    RunClosedRecord,
    RunOpenedRecord,
    SaeSetIdentity,
    SamplingSettings,
    TurnRecord,
    as_json,
    read_as,
    read_record,
    record_json,
)

__all__ = [
    "ASKER",
    "DECISIONS",
    "ENDPOINT",
    "FORMATS",
    "KINDS",
    "RECORDS",
    "TABLES",
    "ApprovalRecord",
    "Approvals",
    "Checkpoint",
    "Comparison",
    "Context",
    "Counterfactual",
    "Difference",
    "ExecutionRecord",
    "Gone",
    "HeldCall",
    "HeldEntry",
    "ModelIdentity",
    "Node",
    "OnFailure",
    "OnRecord",
    "OtherRecord",
    "Page",
    "PolicyIdentity",
    "Query",
    "Record",
    "RecordedTurn",
    "RedactionRecord",
    "RetentionRecord",
    "RunClosedRecord",
    "RunLog",
    "RunOpenedRecord",
    "SaeSetIdentity",
    "SamplingSettings",
    "SignerKey",
    "Spans",
    "Store",
    "StoredRecord",
    "Strong",
    "TurnRecord",
    "Verified",
    "VerifierKey",
    "append_turn",
    "approvals_of",
    "as_json",
    "canonical",
    "changes",
    "check_consistency",
    "check_inclusion",
    "check_tables",
    "checkpoint",
    "compare",
    "compare_verdicts",
    "default_store",
    "diff_calls",
    "digest",
    "export",
    "exposed_files",
    "feature_of",
    "find",
    "held_calls",
    "home",
    "layer_activity",
    "moment",
    "named_errors",
    "nearest",
    "new_id",
    "opening_of",
    "pack",
    "page",
    "parse_canonical",
    "policies_of",
    "portable_record",
    "prove",
    "prove_consistency",
    "read_as",
    "read_content",
    "read_public",
    "read_record",
    "read_turn",
    "record_json",
    "record_of",
    "redact",
    "replacing",
    "retain",
    "strongest_at",
    "text_in_order",
    "turns_of",
    "unknown_names",
    "unpack",
    "values_of",
    "verify",
    "why_broken",
]
