"""`python -m steerkit`: the command."""

from steerkit.cli.main import run

run()
