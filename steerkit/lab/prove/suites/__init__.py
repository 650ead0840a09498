"""Public benchmarks: their cases, their answers, and how a model scores."""

from steerkit.lab.prove.suites.cases import passed_over, read_bfcl, read_mobile_actions
from steerkit.lab.prove.suites.run import SuiteScore, run_suite

__all__ = ["SuiteScore", "passed_over", "read_bfcl", "read_mobile_actions", "run_suite"]
