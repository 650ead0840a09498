"""AgentDojo: agents with tools, users' tasks, and orders of somebody else in what the tools return."""

from steerkit.lab.prove.suites.agentdojo.run import AttackScore, run_agentdojo
from steerkit.lab.prove.suites.agentdojo.scripted import Agent
from steerkit.lab.prove.suites.agentdojo.tasks import trials_of

__all__ = ["Agent", "AttackScore", "run_agentdojo", "trials_of"]
