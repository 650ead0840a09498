"""The command line: the one package that writes to the terminal."""

from steerkit.cli.main import run

__all__ = ["run"]
