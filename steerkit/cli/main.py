"""The `steerkit` command. Commands import what they need when they run, so that help and audit load no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from steerkit import __version__
from steerkit.cli.approvals import app as approvals
from steerkit.cli.audit.app import app as audit
from steerkit.cli.calibrate import calibrate_command
from steerkit.cli.demo import demo
from steerkit.cli.eval import eval_command
from steerkit.cli.features.app import app as features
from steerkit.cli.init import init
from steerkit.cli.policy import app as policy
from steerkit.cli.run import run_command
from steerkit.cli.sae.app import app as sae
from steerkit.cli.serve import serve_command
from steerkit.cli.view import view_command
from steerkit.errors import PolicyError, SteerkitError
from steerkit.report import any_encoding, say, say_line, say_lines

# Older releases of typer use the click package, newer ones carry their own copy: the class is found either way.
_USAGE_ERROR: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="steerkit",
    help="Read, steer, guard and audit a function-calling model through its SAE features.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo)
app.command("init")(init)
app.command("run")(run_command)
app.command("serve")(serve_command)
app.command("view")(view_command)
app.command("eval")(eval_command)
app.command("calibrate")(calibrate_command)
app.add_typer(approvals, name="approvals")
app.add_typer(audit, name="audit")
app.add_typer(features, name="features")
app.add_typer(policy, name="policy")
app.add_typer(sae, name="sae")


def _version(wanted: bool) -> None:
    if wanted:
        say(f"steerkit {__version__}")
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
    any_encoding()
    try:
        status = app(standalone_mode=False)
        if sys.stdout is not None:  # it was closed before the command began
            sys.stdout.flush()
    except _USAGE_ERROR as error:
        text = error.format_message()  # of a group without its command: the help
        is_help = text.startswith("Usage:")
        _stop(2, text if is_help else f"error: {text}", printed=say_lines if is_help else say_line)
    except PolicyError as error:
        _stop(1, *_errors(error.problems))
    except SteerkitError as error:
        _stop(1, *_errors([str(error)]))
    except (KeyboardInterrupt, typer.Abort):
        _stop(130, "interrupted: what is finished stands whole, on record or in its file; nothing is half-written")
    except BrokenPipeError:
        _stop(1)  # the reader went away
    except OSError as error:
        _stop(1, *_errors([f"{error.filename or 'output'}: {error.strerror or error}"]))
    sys.exit(status if isinstance(status, int) else 0)


def _errors(texts: Sequence[str]) -> list[str]:
    return [f"error: {text}" for text in texts]


def _stop(status: int, *said: str, printed: Callable[[str], None] = say_line) -> NoReturn:
    """Say it and exit, whatever can still be written; Python would complain once more when it flushes at exit."""
    with suppress(OSError):
        for text in said:
            printed(text)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


if __name__ == "__main__":
    run()
