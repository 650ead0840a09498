"""Fidelity of a set of SAEs."""
