"""Steering in forward hooks: attached, gathered per row, with what gates remember."""
