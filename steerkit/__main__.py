"""`python -m steerkit`: the command."""

from steerkit.cli import run

run()
