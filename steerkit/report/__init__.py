"""Presentation of results: text, tables, pages and figures; and the one way out to a terminal."""

from steerkit.report.drift import drift_json, show_drift
from steerkit.report.evaluation import cell, evaluation_json, percent, share_json, show_evaluation
from steerkit.report.explanation import ExplainView, explanation_json, show_explanation
from steerkit.report.explanation_page import explain_page
from steerkit.report.feature import FeatureView, feature_json, show_feature
from steerkit.report.filed import AlternativeRow, FeatureReport, FiledReport, ReplayReport, measured, read_reports
from steerkit.report.found_features import show_causes, show_found, show_steering_edits
from steerkit.report.found_json import Source, found_json
from steerkit.report.out import any_encoding, console, json_text, print_json, say, say_line, say_lines, without_nan
from steerkit.report.page import templates
from steerkit.report.records import event_text, event_word, ledger_text, line_of, meta_text
from steerkit.report.report_page import as_file, page_of, report_page, write_page
from steerkit.report.rows import print_rows
from steerkit.report.suites import attack_json, show_attack, show_suite, suite_json
from steerkit.report.text import bars, call_text, edit_text, reply_lines, reply_text, short, verdict_text
from steerkit.report.tokens import shade, visible
from steerkit.report.turns import (
    Bound,
    bounds_of,
    constrained_text,
    highest,
    turn_data,
    verdict_data,
    watched_lines,
    watched_values,
)

__all__ = [
    "AlternativeRow",
    "Bound",
    "ExplainView",
    "FeatureReport",
    "FeatureView",
    "FiledReport",
    "ReplayReport",
    "Source",
    "any_encoding",
    "as_file",
    "attack_json",
    "bars",
    "bounds_of",
    "call_text",
    "cell",
    "console",
    "constrained_text",
    "drift_json",
    "edit_text",
    "evaluation_json",
    "event_text",
    "event_word",
    "explain_page",
    "explanation_json",
    "feature_json",
    "found_json",
    "highest",
    "json_text",
    "ledger_text",
    "line_of",
    "measured",
    "meta_text",
    "page_of",
    "percent",
    "print_json",
    "print_rows",
    "read_reports",
    "reply_lines",
    "reply_text",
    "report_page",
    "say",
    "say_line",
    "say_lines",
    "shade",
    "share_json",
    "short",
    "show_attack",
    "show_causes",
    "show_drift",
    "show_evaluation",
    "show_explanation",
    "show_feature",
    "show_found",
    "show_steering_edits",
    "show_suite",
    "suite_json",
    "templates",
    "turn_data",
    "verdict_data",
    "verdict_text",
    "visible",
    "watched_lines",
    "watched_values",
    "without_nan",
    "write_page",
]
