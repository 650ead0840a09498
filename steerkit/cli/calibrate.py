"""`steerkit calibrate`: the bounds of a policy for a wanted rate of false positives."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.engine import Engine, Where, Workers, mapper_of, where
from steerkit.cli.reading import progress
from steerkit.cli.sae_options import Device, Dtype, Graphs, Limit, Model, Prepack, Saes, how_to_run, load_named
from steerkit.cli.view import console, print_json
from steerkit.errors import SaeError

if TYPE_CHECKING:
    from steerkit.lab.shadow import Shadow
    from steerkit.lab.thresholds import Calibrated, Calibration, Values
    from steerkit.policy import Policy, Statistic

_File = Annotated[Path, typer.Argument(help="The policy file.")]
_Benign = Annotated[Path | None, typer.Option(help="JSONL file of benign conversations, messages and tools.")]
_Positive = Annotated[
    Path | None, typer.Option(help="The same of conversations that the conditions are meant for (with --data).")
]
_Store = Annotated[
    Path | None, typer.Option(help="Instead of --data: an audit store with turns of this policy in shadow mode.")
]
_Rate = Annotated[float, typer.Option(min=0, max=0.5, help="Share of benign conversations a condition may hold for.")]
_Write = Annotated[
    Path | None, typer.Option(help="Write the policy with the new bounds, without its comments, to this file.")
]
_Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
_Longest = Annotated[int, typer.Option(min=1, help="Length of a reply at most.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


def calibrate_command(
    policy: _File,
    data: _Benign = None,
    positive: _Positive = None,
    store: _Store = None,
    rate: _Rate = 0.01,
    write: _Write = None,
    force: _Force = False,
    model: Model = "tiny",
    saes: Saes = None,
    limit: Limit = None,
    max_new_tokens: _Longest = 128,
    json: _Json = False,
    engine: Engine = "local",
    workers: Workers = None,
    device: Device = None,
    dtype: Dtype = None,
    prepack: Prepack = None,
    graphs: Graphs = "auto",
) -> None:
    """Choose the bounds of a policy's gates and guard for a wanted rate of false positives.

    This sets when a policy acts. `steerkit sae calibrate` is something else: it measures the features' statistics, the
    units in which strengths and bounds may be given.
    """
    from steerkit.lab.found_policy import refuse_present, write_policy
    from steerkit.lab.thresholds import with_bounds
    from steerkit.policy import load
    from steerkit.runtime import load as load_model

    if (data is None) == (store is None) or (positive is not None and data is None):
        raise SaeError("calibrate: expected either --data (perhaps with --positive), or --store with a shadow run")
    if data is None and (engine != "local" or workers is not None):
        raise SaeError("calibrate: got --engine or --workers with --store, off which nothing is run; expected --data")
    if write is not None:
        refuse_present(write, force=force)
    loaded, shadow = load(policy), None
    if data is not None:
        reading = {"limit": limit, "max_new_tokens": max_new_tokens}
        load_one = partial(load_model, model, saes, **how_to_run(device, dtype, prepack, graphs), audit=False)
        found = _from_data(loaded, data, positive, rate, where(engine, workers, load_one, device), reading)
    else:
        found, shadow = _from_store(loaded, Path(str(store)), rate, saes or model)
    if json:
        print_json(_plain(found, shadow, rate))
    else:
        _show(found, shadow, rate)
    if write is not None:
        write_policy(with_bounds(loaded, found.bounds), write, force=force)
        typer.echo(f"wrote {write}", err=True)


def _from_data(
    policy: Policy, data: Path, positive: Path | None, rate: float, at: Where, reading: dict[str, Any]
) -> Calibration:
    from steerkit.lab.thresholds import calibrate, values_in

    runtime = at.load()
    values: list[Values] = []
    with mapper_of(at, runtime) as mapper:
        for file in (data, positive):
            if file is not None:
                with progress(1, f"conversations of {file.name}") as report:
                    values.append(values_in(runtime, policy, file, **reading, mapper=mapper, report=report))
    statistic = None if runtime.saes is None else runtime.saes.statistic
    return calibrate(policy, values[0], values[1] if len(values) > 1 else None, rate, statistic)


def _from_store(policy: Policy, path: Path, rate: float, source: str) -> tuple[Calibration, Shadow]:
    from steerkit.audit import Store
    from steerkit.lab.shadow import read_shadow
    from steerkit.lab.thresholds import calibrate
    from steerkit.policy import in_multiples

    store = Store(path, create=False)
    try:
        shadow = read_shadow(store, policy)
    finally:
        store.close()
    statistic: Statistic | None = load_named(source).statistic if any(in_multiples(policy)) else None
    return calibrate(policy, shadow.values, None, rate, statistic), shadow


def _show(found: Calibration, shadow: Shadow | None, rate: float) -> None:
    from rich.table import Table

    from steerkit.cli.eval_view import cell

    out = console()
    if shadow is not None:
        for line in _shadow_lines(shadow):
            out.print(line, soft_wrap=True)
        out.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    titles = ("rule", "condition", "at", "old", "new", "false, old", "false, new", "recall, old", "recall, new")
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number > 2 else "left")
    for one in found.bounds:
        shares = (*one.false, *one.recall)
        table.add_row(
            one.reading.rule, one.condition, one.reading.place, _old(one), _said(one.quantity), *map(cell, shares)
        )
    out.print(table)
    for line in found.left:
        out.print(f"left as it is: {line}", soft_wrap=True)
    few = min((one.false[0].count for one in found.bounds), default=0)
    if found.bounds and rate * few < 1:
        out.print(f"{few} conversations cannot show a rate of {100 * rate:g} %: none of them is beyond its new bound")
    out.print(
        f"\nEach condition by itself, for at most {100 * rate:g} % of the conversations with a token at its place; "
        f"95 % intervals in brackets.",
        soft_wrap=True,
    )


def _shadow_lines(shadow: Shadow) -> list[str]:
    from steerkit.cli.eval_view import percent

    decided = ", ".join(f"{count} {name}" for name, count in sorted(shadow.decisions.items())) or "no calls"
    edited = ", ".join(f"{rule} in {count}" for rule, count in sorted(shadow.edited.items())) or "in none"
    lines = [
        f"{shadow.turns} turns in shadow mode with {shadow.calls} calls: {decided}",
        f"would not have been released: {percent(shadow.withheld)} of the calls",
        f"steering would have changed activations: {edited} of {shadow.turns} turns",
    ]
    return [*lines, *([f"not read: {shadow.other} turns with other features or enforcing"] if shadow.other else [])]


def _plain(found: Calibration, shadow: Shadow | None, rate: float) -> dict[str, Any]:
    from steerkit.cli.eval_view import share_json

    bounds = [
        {
            "rule": one.reading.rule,
            "condition": one.condition,
            "at": one.reading.place,
            "old": one.old,
            "new": one.new,
            "quantity": one.quantity,
            "false": [share_json(share) for share in one.false],
            "recall": [share_json(share) for share in one.recall],
        }
        for one in found.bounds
    ]
    whole: dict[str, Any] = {"rate": rate, "bounds": bounds, "left": list(found.left)}
    if shadow is not None:
        whole["shadow"] = {
            "turns": shadow.turns,
            "calls": shadow.calls,
            "decisions": dict(shadow.decisions),
            "withheld": share_json(shadow.withheld),
            "edited": dict(shadow.edited),
            "not_read": shadow.other,
        }
    return whole


def _old(one: Calibrated) -> str:
    """The old bound as the file says it."""
    return _said(getattr(one.reading.reading, one.key))


def _said(quantity: float | str) -> str:
    return quantity if isinstance(quantity, str) else f"{quantity:.6g}"
