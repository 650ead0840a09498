"""`steerkit policy`: check policy files, test them on cases, explain them, and print their JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from steerkit.cli.loading import read_tools
from steerkit.report import print_json, say, say_line

if TYPE_CHECKING:
    from steerkit.policy import Policy, Problem
    from steerkit.sae import SaeSet

app = typer.Typer(
    help="Check, test and explain policy files, and print their schema.", no_args_is_help=True, rich_markup_mode=None
)

_SHIPS = "A policy file, or the name of one that ships (payments, functiongemma/guard)."
_Files = Annotated[list[Path], typer.Argument(metavar="POLICY...", help=_SHIPS)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
_Saes = Annotated[str | None, typer.Option(metavar="FOLDER", help="Folder or hub repository of the SAEs it is for.")]


@app.command()
def check(
    files: _Files,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Model it is for: 'tiny' (brings its SAEs), a folder or a hub repository."),
    ] = None,
    saes: _Saes = None,
    tools: Annotated[
        Path | None, typer.Option(metavar="TOOLS", help="JSON file with the tools that will be declared.")
    ] = None,
    json: _Json = False,
) -> None:
    """Name every mistake of every file, with line and path; warnings do not fail."""
    from steerkit.errors import PolicyError
    from steerkit.policy import load, locate

    checks = [_by_itself, *_for_model(model, saes), *_for_tools(tools)]
    problems: list[str] = []
    for file in files:
        try:
            policy = load(file)
        except PolicyError as error:
            problems += error.problems
            if json:
                _print_check(file, error.problems, ())
            continue
        found = [one(policy) for one in checks]
        wrong = locate(file, [problem for mistakes, _ in found for problem in mistakes])
        warnings = locate(file, [doubt for _, doubts in found for doubt in doubts])
        problems += wrong
        if json:
            _print_check(file, wrong, warnings)
            continue
        for warning in warnings:
            say_line(f"warning: {warning}")
        if not wrong:
            say(f"ok: {file}")
    if problems and json:
        raise typer.Exit(1)
    if problems:
        raise PolicyError(problems)


def _print_check(file: Path, problems: Sequence[str], warnings: Sequence[str]) -> None:
    print_json({"file": str(file), "ok": not problems, "problems": list(problems), "warnings": list(warnings)})


@app.command("test")
def hold_against_cases(
    file: Annotated[Path, typer.Argument(metavar="POLICY", help=_SHIPS)],
    cases: Annotated[
        Path,
        typer.Option(metavar="CASES", help="YAML file of calls, what came before, and the verdicts they must get."),
    ],
    tools: Annotated[
        Path | None, typer.Option(metavar="TOOLS", help="JSON file with the tools, instead of the cases' own.")
    ] = None,
    saes: _Saes = None,
    json: _Json = False,
) -> None:
    """Hold a policy's guard against cases, without a model; ends with 1 if a verdict is another than expected."""
    from steerkit.guard import check_cases
    from steerkit.policy import load, load_cases, resolve

    policy, read = load(file), load_cases(cases)
    if saes is not None:
        from steerkit.sae import load_set

        policy = resolve(policy, load_set(saes).statistic)
    checked = check_cases(policy, read, tools=None if tools is None else read_tools(tools))
    failed = [one for one in checked if not one.holds]
    for one in checked if json else ():
        got = {"decision": one.verdict.decision, "rule": one.verdict.rule, "reason": one.verdict.reason}
        expected = {"decision": one.expected, "rule": one.rule}
        said = {"case": one.case, "call": one.number, "tool": one.tool, "holds": one.holds}
        print_json({"policy": policy.name, **said, "expected": expected, "got": got})
    if not json:
        for one in failed:
            say(f"{cases}: {one}")
        held = len(checked) - len(failed)
        (say_line if failed else say)(f"{held} of {len(checked)} verdicts are as expected: {file}")
    if failed:
        raise typer.Exit(1)


@app.command()
def explain(files: _Files) -> None:
    """Say in plain sentences what each file does."""
    from steerkit.policy import explain as explained
    from steerkit.policy import load

    for number, file in enumerate(files):
        say(("\n" if number else "") + explained(load(file)))


@app.command()
def schema(
    cases: Annotated[bool, typer.Option("--cases", help="Of files of cases, which `policy test` reads.")] = False,
) -> None:
    """Print the JSON Schema of policy files, for editors."""
    from steerkit.policy import cases_schema, schema_text

    if cases:
        print_json(cases_schema())
    else:
        say(schema_text().removesuffix("\n"))


_Found: TypeAlias = "tuple[Iterable[Problem], Iterable[Problem]]"
"""Errors and warnings."""


def _by_itself(policy: Policy) -> _Found:
    """Rules that load and can never act, match or decide; and what is probably not meant."""
    from steerkit.policy import suspicious, unreachable

    return list(unreachable(policy)), list(suspicious(policy))


def _for_model(model: str | None, saes: str | None) -> Iterator[Callable[[Policy], _Found]]:
    """Checks of the names, features, layers and gates of a policy."""
    if model is None and saes is None:
        return
    from steerkit.engine import box_folder
    from steerkit.errors import ModelError
    from steerkit.sae import load_set
    from steerkit.steer import check_against_saes

    if model is not None and model.startswith((".", "/", "~")) and not Path(model).is_dir():
        raise ModelError(f"{model}: no such folder; expected a folder, a hub repository id, or 'tiny'")
    box = box_folder(model or "")
    sae_set = load_set(saes) if saes is not None else load_set(box / "saes") if box else None
    yield partial(_named, model, sae_set)
    if sae_set is None:
        say_line(f"warning: features are not checked; give the SAEs of {model} with --saes")
        return
    yield lambda policy: check_against_saes(policy, sae_set)


def _named(model: str | None, sae_set: SaeSet | None, policy: Policy) -> _Found:
    """Check that a policy is for this model, by name or by a fingerprint of the weights."""
    from steerkit.engine import BOXES
    from steerkit.policy import Problem

    if policy.model is None:
        return (), ()
    known = [name for name in (model, sae_set and sae_set.model_name, sae_set and sae_set.name) if name]
    if sae_set is not None and model is None:
        known += [box for box in BOXES if sae_set.model_name == f"steerkit/{box}"]
    where = ("model",)
    if policy.model.startswith("sha256:"):
        if sae_set is not None and policy.model == sae_set.fingerprint:
            return (), ()
        text = f"got {policy.model[:15]}…, which is not the SAEs' fingerprint; the model's own is not compared here"
        return (), [Problem(where, text)]
    if policy.model in known:
        return (), ()
    return [Problem(where, f"got {policy.model!r}, expected {' or '.join(map(repr, dict.fromkeys(known)))}")], ()


def _for_tools(tools: Path | None) -> Iterator[Callable[[Policy], _Found]]:
    """A check of the tools and arguments that a policy names."""
    if tools is None:
        return
    from steerkit.chat import as_tools
    from steerkit.steer import check_against_tools

    declared = as_tools(read_tools(tools), from_function=_no_function)
    yield lambda policy: (list(check_against_tools(policy, declared)), ())


def _no_function(function: object) -> dict[str, object]:
    raise TypeError(f"a JSON file holds no function: {function}")
