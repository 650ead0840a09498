"""Doors to the libraries that agents are built with: steerkit as their model, and its guard as their approver.

One member each, imported by its own name (`steerkit.integrations.inspect`), behind an extra of that name.
"""
