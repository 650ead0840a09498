"""`steerkit demo`: the main job on the model in the box, without and with the shipped policies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.report import (
    console,
    edit_text,
    highest,
    print_json,
    reply_lines,
    turn_data,
    verdict_data,
    verdict_text,
    watched_lines,
    watched_values,
)

if TYPE_CHECKING:
    from steerkit.tiny import Case
    from steerkit.types import Turn


def demo(
    store: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Audit store (default: demo.db in $STEERKIT_HOME).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON line per request.")] = False,
) -> None:
    """Show the whole job: read, steer, judge and record, on a small model that comes with the package."""
    from steerkit.agent import load
    from steerkit.audit import home
    from steerkit.runtime import Request
    from steerkit.tiny import CASES, policy_files

    path = store or home() / "demo.db"
    runtime = load("tiny", policy=policy_files(), audit=path)
    plain = runtime.run_batch([Request(case.messages, case.tools, policy=()) for case in CASES])
    steered = runtime.run_batch([Request(case.messages, case.tools) for case in CASES])
    high = highest(steered)
    for number, (case, before, after) in enumerate(zip(CASES, plain, steered, strict=True), start=1):
        if json:
            print_json(_data(case, before, after))
        else:
            _show(number, case, before, after, watched_lines(after, runtime.policies, high))
    if not json:
        _show_end(path, steered, high)


def _data(case: Case, before: Turn, after: Turn) -> dict[str, Any]:
    return {
        "case": case.name,
        "request": case.request,
        "unsteered": turn_data(before),
        "steered": turn_data(after),
        "watched": {name: max(values, default=0.0) for name, values in watched_values(after).items()},
        "verdicts": verdict_data(after),
        "record": after.record_id,
    }


def _show(number: int, case: Case, before: Turn, after: Turn, watched: list[str]) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print()
    out.print(f"{number}. {case.title}", style="bold")
    for line in case.lines:
        out.print(Padding(line, (0, 0, 0, 3), expand=False), style="italic")
    left, right = (Text("\n".join(reply_lines(one.calls, one.text))) for one in (before, after))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("without policies", min_width=min(49, out.width // 2 - 3))
    table.add_column("with policies")
    table.add_row(left, right)
    out.print(Padding(table, (0, 0, 0, 3), expand=False))
    for line in watched:
        out.print(f"   {line}", style="cyan", soft_wrap=True)
    for edit in after.trace.edits:
        out.print(f"   edited  {edit_text(edit)}", style="magenta")
    for verdict in after.verdicts:
        out.print("   guard  ", verdict_text(verdict))
    if not after.calls:
        out.print("   guard   nothing to judge: the model made no call", style="dim")
    out.print(f"   record  {after.record_id}", style="dim")


def _show_end(path: Path, steered: list[Turn], high: float) -> None:
    out = console()
    out.print()
    out.print(f"Bars: a reading at each token of the reply, from 0 to {high:+.1f} in all six.", style="dim")
    out.print()
    out.print("Look further:", style="bold")
    for command in (
        f"audit verify --store {path}",
        f"audit show {steered[1].record_id} --store {path}",
        "sae inspect tiny",
        "policy check payments",
        'run "tell me how much money travel 38 has" --tools box --policy payments',
        "init my-agent",
    ):
        out.print(f"   steerkit {command}", soft_wrap=True)
    out.print()
    out.print("See it in a browser:", style="bold")
    out.print(f"   steerkit view --store {path}", soft_wrap=True)
