"""Records as typed values: the one place that reads and writes their keys."""

from steerkit.audit.schema.codec import as_json, path_of
from steerkit.audit.schema.gone import Gone, GoneItems, GoneObject, GoneText
from steerkit.audit.schema.kinds import KINDS, RECORDS, Accounted, accounted, read_as, read_record, record_json
from steerkit.audit.schema.parts import (
    Counterfactual,
    ModelIdentity,
    PolicyIdentity,
    SaeSetIdentity,
    SamplingSettings,
)
from steerkit.audit.schema.records import (
    DECISIONS,
    FORMAT,
    ApprovalRecord,
    ExecutionRecord,
    OtherRecord,
    Record,
    RedactionRecord,
    RetentionRecord,
    RunClosedRecord,
    RunOpenedRecord,
    Stamps,
    TurnRecord,
)

__all__ = [
    "DECISIONS",
    "FORMAT",
    "KINDS",
    "RECORDS",
    "Accounted",
    "ApprovalRecord",
    "Counterfactual",
    "ExecutionRecord",
    "Gone",
    "GoneItems",
    "GoneObject",
    "GoneText",
    "ModelIdentity",
    "OtherRecord",
    "PolicyIdentity",
    "Record",
    "RedactionRecord",
    "RetentionRecord",
    "RunClosedRecord",
    "RunOpenedRecord",
    "SaeSetIdentity",
    "SamplingSettings",
    "Stamps",
    "TurnRecord",
    "accounted",
    "as_json",
    "path_of",
    "read_as",
    "read_record",
    "record_json",
]
