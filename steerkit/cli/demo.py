"""`steerkit demo`: the main job on the model in the box, without and with the shipped policies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.turns import turn_data, verdict_data, watched_bars
from steerkit.cli.view import console, edit_text, print_json, reply_text, verdict_text

if TYPE_CHECKING:
    from steerkit.tiny.cases import Case
    from steerkit.types import Turn


def demo(
    store: Annotated[Path | None, typer.Option(help="Audit store (default: demo.db in $STEERKIT_HOME).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON line per request.")] = False,
) -> None:
    """Show the whole job: read, steer, judge and record, on a small model that comes with the package."""
    from steerkit.audit import home
    from steerkit.runtime import Request, load
    from steerkit.tiny.cases import CASES, policy_files

    path = store or home() / "demo.db"
    policies = policy_files()
    runtime = load("tiny", policy=policies, audit=path)
    plain = runtime.run_batch([Request(case.messages, case.tools, policy=()) for case in CASES])
    steered = runtime.run_batch([Request(case.messages, case.tools) for case in CASES])
    for number, (case, before, after) in enumerate(zip(CASES, plain, steered, strict=True), start=1):
        if json:
            print_json(_data(case, before, after))
        else:
            _show(number, case, before, after)
    if not json:
        _show_end(path, policies, steered)


def _data(case: Case, before: Turn, after: Turn) -> dict[str, Any]:
    watched = {name: highest for name, (_, highest) in watched_bars(after).items()}
    return {
        "case": case.name,
        "request": case.request,
        "unsteered": turn_data(before),
        "steered": turn_data(after),
        "watched": watched,
        "verdicts": verdict_data(after),
        "record": after.record_id,
    }


def _show(number: int, case: Case, before: Turn, after: Turn) -> None:
    from rich.table import Table

    out = console()
    out.print(f"\n{number}. {case.title}", style="bold")
    out.print(f"   {case.request}", style="italic")
    table = Table(box=None, pad_edge=False, padding=(0, 3))
    table.add_column("   without policies", ratio=1, min_width=46)
    table.add_column("with policies", ratio=1, min_width=46)
    left, right = (reply_text(turn_data(turn)["calls"], turn.text) for turn in (before, after))
    table.add_row("\n".join(f"   {line}" for line in left.splitlines()), right)
    out.print(table)
    for name, (drawn, highest) in watched_bars(after).items():
        out.print(f"   {name:<16} {drawn}  max {highest:+.1f}", style="cyan")
    for edit in turn_data(after)["edits"]:
        out.print(f"   edited  {edit_text(edit)}", style="magenta")
    for verdict in verdict_data(after):
        out.print("   guard  ", verdict_text(verdict))
    if not after.calls:
        out.print("   guard   nothing to judge: the model made no call", style="dim")
    out.print(f"   record  {after.record_id}", style="dim")


def _show_end(path: Path, policies: list[Path], steered: list[Turn]) -> None:
    out = console()
    out.print("\nLook further:", style="bold")
    out.print(f"   steerkit audit verify --store {path}")
    out.print(f"   steerkit audit show {steered[1].record_id} --store {path}")
    out.print("   steerkit sae inspect tiny")
    out.print(f"   steerkit policy check {policies[0]}")
    out.print('   steerkit run "tell me how much money travel 38 has" --tools examples/tools.json')
