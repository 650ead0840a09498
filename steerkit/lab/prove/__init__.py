"""Proves a policy beside its controls, and sets its bounds."""
