"""The `steerkit` command. Commands import what they need when they run, so that help and audit load no torch."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from steerkit import __version__
from steerkit.cli.audit import app as audit
from steerkit.cli.calibrate import calibrate_command
from steerkit.cli.demo import demo
from steerkit.cli.eval import eval_command
from steerkit.cli.features import app as features
from steerkit.cli.policy import app as policy
from steerkit.cli.run import run_command
from steerkit.cli.sae import app as sae
from steerkit.errors import PolicyError, SteerkitError

# Older releases of typer use the click package, newer ones carry their own copy: the class is found either way.
_USAGE_ERROR: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="steerkit",
    help="Read, steer, guard and audit a function-calling model through its SAE features.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo)
app.command("run")(run_command)
app.command("eval")(eval_command)
app.command("calibrate")(calibrate_command)
app.add_typer(audit, name="audit")
app.add_typer(features, name="features")
app.add_typer(policy, name="policy")
app.add_typer(sae, name="sae")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"steerkit {__version__}")
        raise typer.Exit


@app.callback()
def steerkit(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Read, steer, guard and audit a function-calling model through its SAE features."""


def run() -> None:
    """The entry point: a user's mistake is one clear line on stderr and a non-zero exit."""
    try:
        status = app(standalone_mode=False)
    except _USAGE_ERROR as error:
        text = error.format_message()  # of a group without its command: the help
        typer.echo(text if text.startswith("Usage:") else f"error: {text}", err=True)
        sys.exit(2)
    except PolicyError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        sys.exit(1)
    except SteerkitError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        # The reader went away; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    run()
