"""Public benchmarks under every arm: suites of single turns (BFCL, Mobile Actions), and AgentDojo's agents."""

from steerkit.lab.prove.suites.agentdojo import Agent, AttackScore, run_agentdojo, trials_of
from steerkit.lab.prove.suites.cases import passed_over, read_bfcl, read_mobile_actions
from steerkit.lab.prove.suites.run import SuiteScore, run_suite

__all__ = [
    "Agent",
    "AttackScore",
    "SuiteScore",
    "passed_over",
    "read_bfcl",
    "read_mobile_actions",
    "run_agentdojo",
    "run_suite",
    "trials_of",
]
