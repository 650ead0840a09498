"""The model in the box: what it is made for, and how it is made."""

from steerkit.tiny.demo_requests import CASES, TOOLS, Case, policy_files

__all__ = ["CASES", "TOOLS", "Case", "policy_files"]
