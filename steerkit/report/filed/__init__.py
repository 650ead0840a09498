"""Reports as files: the JSON that commands write, as values with types."""

from steerkit.report.filed.evaluation import ArmRow, DoseRow, EvaluationReport, LatencyRow, PlaceRow
from steerkit.report.filed.feature import ContextRow, FeatureReport, TokenRow, measured
from steerkit.report.filed.found import CauseRow, FoundReport, SteeringRow
from steerkit.report.filed.reading import FiledReport, as_report, read_reports
from steerkit.report.filed.replay import AlternativeRow, ReplayReport
from steerkit.report.filed.shares import FeatureName, MeasuredLike, MeasuredShare, ProbeRow, ShareLike

__all__ = [
    "AlternativeRow",
    "ArmRow",
    "CauseRow",
    "ContextRow",
    "DoseRow",
    "EvaluationReport",
    "FeatureName",
    "FeatureReport",
    "FiledReport",
    "FoundReport",
    "LatencyRow",
    "MeasuredLike",
    "MeasuredShare",
    "PlaceRow",
    "ProbeRow",
    "ReplayReport",
    "ShareLike",
    "SteeringRow",
    "TokenRow",
    "as_report",
    "measured",
    "read_reports",
]
