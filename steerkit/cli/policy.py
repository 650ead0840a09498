"""`steerkit policy`: check policy files, explain them, and print their JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerkit.cli.files import read_tools

if TYPE_CHECKING:
    from steerkit.policy import Policy, Problem
    from steerkit.sae import SaeSet

app = typer.Typer(
    help="Check and explain policy files, and print their schema.", no_args_is_help=True, rich_markup_mode=None
)

_Files = Annotated[list[Path], typer.Argument(help="Policy files.")]


@app.command()
def check(
    files: _Files,
    model: Annotated[str | None, typer.Option(help="Model it is for: 'tiny' brings its SAEs.")] = None,
    saes: Annotated[str | None, typer.Option(help="Folder or hub repository of the SAEs it is for.")] = None,
    tools: Annotated[Path | None, typer.Option(help="JSON file with the tools that will be declared.")] = None,
) -> None:
    """Name every mistake of every file, with line and path; warnings do not fail."""
    from steerkit.errors import PolicyError
    from steerkit.policy import load, locate

    suite = _suite(model, saes)
    problems: list[str] = []
    for file in files:
        try:
            policy = load(file)
        except PolicyError as error:
            problems += error.problems
            continue
        found, warnings = _against(policy, model, suite, tools)
        for warning in locate(file, warnings):
            typer.echo(f"warning: {warning}", err=True)
        if found:
            problems += locate(file, found)
        else:
            typer.echo(f"ok: {file}")
    if problems:
        raise PolicyError(problems)


@app.command()
def explain(files: _Files) -> None:
    """Say in plain sentences what each file does."""
    from steerkit.policy import explain as explained
    from steerkit.policy import load

    for number, file in enumerate(files):
        typer.echo(("\n" if number else "") + explained(load(file)))


@app.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for editors."""
    from steerkit.policy import schema_text

    typer.echo(schema_text(), nl=False)


def _suite(model: str | None, saes: str | None) -> SaeSet | None:
    if model is None and saes is None:
        return None
    from steerkit.engine import box_folder
    from steerkit.sae import load_set

    box = box_folder(model or "")
    if saes is not None:
        return load_set(saes)
    return load_set(box / "saes") if box else None


def _against(
    policy: Policy, model: str | None, saes: SaeSet | None, tools: Path | None
) -> tuple[list[Problem], list[Problem]]:
    """What is wrong and what is doubtful, beyond the file itself."""
    problems: list[Problem] = []
    warnings: list[Problem] = []
    if model is not None or saes is not None:
        from steerkit.policy import Problem

        known = [name for name in (model, saes and saes.model_name, saes and saes.name) if name]
        if policy.model is not None and policy.model not in known and not policy.model.startswith("sha256:"):
            problems.append(Problem(("model",), f"got {policy.model!r}, expected {known[0]!r}"))
    if saes is not None:
        from steerkit.steer import check_against_saes

        found = check_against_saes(policy, saes)
        problems += found.problems
        warnings += found.warnings
    if tools is not None:
        from steerkit.chat import as_tools
        from steerkit.steer import check_against_tools

        problems += check_against_tools(policy, as_tools(read_tools(tools), from_function=_no_function))
    return problems, warnings


def _no_function(function: object) -> dict[str, object]:
    raise TypeError(f"a JSON file holds no function: {function}")
