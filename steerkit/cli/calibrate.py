"""`steerkit calibrate`: the bounds of a policy for a wanted rate of false positives."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.loading import check_conversations, check_policy_out, progress, stoppable, this_command
from steerkit.cli.options import (
    Device,
    Dtype,
    Graphs,
    Limit,
    Model,
    Prepack,
    Saes,
    VllmSettings,
    how_to_run,
    load_named,
)
from steerkit.cli.workers import AnyEngine, Where, Workers, mapper_of, where_named
from steerkit.errors import SaeError
from steerkit.report import console, print_json, say_line, visible

if TYPE_CHECKING:
    from steerkit.lab.prove import Answered, Calibrated, Calibration, Shadow
    from steerkit.policy import Policy, Statistic

_File = Annotated[Path, typer.Argument(help="The policy file.")]
_Benign = Annotated[
    Path | None, typer.Option(metavar="FILE", help="JSONL file of benign conversations, messages and tools.")
]
_Positive = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The same of conversations that the conditions are meant for (with --data)."),
]
_Store = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Instead of --data: an audit store with turns of this policy in shadow mode."),
]
_Rate = Annotated[
    float,
    typer.Option(
        metavar="NUMBER", help="Chance that a condition may have to hold for a new benign conversation, to 0.5."
    ),
]
_Write = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the policy with the new bounds, without its comments, to this file."),
]
_Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
_Longest = Annotated[int, typer.Option(metavar="NUMBER", min=1, help="Length of a reply at most.")]
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
    engine: AnyEngine = "local",
    workers: Workers = None,
    vllm: VllmSettings = None,
    device: Device = None,
    dtype: Dtype = None,
    prepack: Prepack = None,
    graphs: Graphs = "auto",
) -> None:
    """Choose the bounds of a policy's gates and guard for a wanted rate of false positives.

    This sets when a policy acts. `steerkit sae calibrate` is something else: it measures the features' statistics, the
    units in which strengths and bounds may be given.

    A file has one conversation a line: {"messages": [{"role": "user", "content": "…"}], "tools": […], "group": "…"};
    rows that name one group, copies and near-copies count once. steerkit/lab/README.md says more.
    """
    from steerkit.policy import load

    _check(data, positive, store, rate, alone=engine == "local" and workers is None and not vllm)
    check_policy_out(write, force=force)
    loaded, shadow = load(policy), None
    for file in (data, positive):
        check_conversations(file, limit)
    with stoppable(lambda: f"no bound was chosen, nothing was written; start again with {this_command()}"):
        if data is not None:
            reading = {"limit": limit, "max_new_tokens": max_new_tokens}
            how = how_to_run(device, dtype, prepack, graphs)
            at = where_named(engine, workers, vllm or (), model, saes, how)
            found = _from_data(loaded, data, positive, rate, at, reading)
        else:
            found, shadow = _from_store(loaded, Path(str(store)), rate, saes or model)
    if json:
        print_json(_plain(found, shadow, rate))
    else:
        _show(found, shadow, rate)
    if write is not None:
        _write_down(loaded, found, write, force=force)


def _write_down(policy: Policy, found: Calibration, path: Path, *, force: bool) -> None:
    from steerkit.lab.find import write_policy
    from steerkit.lab.prove import with_bounds

    if not found.bounds:
        raise SaeError(f"{path}: not written, as no bound was chosen: {'; '.join(found.left)}")
    write_policy(with_bounds(policy, found.bounds), path, force=force)
    say_line(f"wrote {path}")


def _check(data: Path | None, positive: Path | None, store: Path | None, rate: float, *, alone: bool) -> None:
    """Refuse options that do not go together, and a missing extra. Raises SaeError, MissingExtraError."""
    from steerkit.lab import check_extra

    check_extra("choosing bounds")
    if (data is None) == (store is None) or (positive is not None and data is None):
        raise SaeError("calibrate: expected either --data (perhaps with --positive), or --store with a shadow run")
    if not 0 < rate <= 0.5:
        raise SaeError(f"--rate: got {rate:g}, expected above 0 and at most 0.5")
    if data is None and not alone:
        raise SaeError("calibrate: got --engine or --workers with --store, off which nothing is run; expected --data")


def _from_data(
    policy: Policy, data: Path, positive: Path | None, rate: float, at: Where, reading: dict[str, Any]
) -> Calibration:
    from steerkit.lab.prove import calibrate, values_in

    runtime = at.here()
    values: list[Answered] = []
    with mapper_of(at, runtime) as mapper:
        for file in (data, positive):
            if file is not None:
                with progress(1, f"conversations of {file.name}") as report:
                    least = file is positive
                    values.append(
                        values_in(runtime, policy, file, **reading, least=least, mapper=mapper, report=report)
                    )
    _say(note for one in values for note in one.notes)
    statistic = None if runtime.saes is None else runtime.saes.statistic
    return calibrate(policy, values[0], values[1] if len(values) > 1 else None, rate, statistic)


def _from_store(policy: Policy, path: Path, rate: float, source: str) -> tuple[Calibration, Shadow]:
    from steerkit.audit import Store
    from steerkit.lab.prove import calibrate, read_shadow
    from steerkit.policy import relative_quantities

    store = Store(path, create=False)
    try:
        shadow = read_shadow(store, policy)
    finally:
        store.close()
    _say(shadow.values.notes)
    statistic: Statistic | None = load_named(source).statistic if any(relative_quantities(policy)) else None
    return calibrate(policy, shadow.values, None, rate, statistic), shadow


def _show(found: Calibration, shadow: Shadow | None, rate: float) -> None:
    from steerkit.report import cell, print_rows

    out = console()
    if shadow is not None:
        for line in _shadow_lines(shadow):
            out.print(line, soft_wrap=True)
        out.print()
    titles = ("rule", "condition", "at", "old", "new", "false, old", "false, new", "on new data", "recall, old")
    rows = [
        (
            visible(one.reading.rule),
            visible(one.condition),
            one.reading.place,
            _old(one),
            _said(one.quantity),
            *map(cell, one.false),
            f"{100 * one.mean_rate:.2g} % (at most {100 * one.upto:.2g})",
            *map(cell, one.recall),
        )
        for one in found.bounds
    ]
    print_rows(out, (*titles, "recall, new"), rows, main=5, words=titles[:3])
    for line in found.left:
        out.print(f"left as it is: {line}", soft_wrap=True)
    out.print()
    out.print(
        f"Each condition by itself, among conversations that differ and have a token at its place; 95 % intervals in "
        f"brackets. On new data: the mean over calibrations like this one, for at most {100 * rate:g} %, and what the "
        f"rate of this very bound does not exceed with a confidence of 95 %; more conversations bring the two together."
    )


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        say_line(f"note: {note}")


def _shadow_lines(shadow: Shadow) -> list[str]:
    from steerkit.report import percent

    decided = ", ".join(f"{count} {name}" for name, count in sorted(shadow.decisions.items())) or "no calls"
    edited = ", ".join(f"{rule} in {count}" for rule, count in sorted(shadow.edited.items())) or "in none"
    lines = [
        f"{shadow.turns} turns in shadow mode with {shadow.calls} calls: {decided}",
        f"would not have been released: {percent(shadow.withheld)} of the calls",
        f"steering would have changed activations: {edited} of {shadow.turns} turns",
    ]
    return [*lines, *([f"not read: {shadow.other} turns with other features or enforcing"] if shadow.other else [])]


def _plain(found: Calibration, shadow: Shadow | None, rate: float) -> dict[str, Any]:
    from steerkit.report import share_json

    bounds = [
        {
            "rule": one.reading.rule,
            "condition": one.condition,
            "at": one.reading.place,
            "old": one.old,
            "new": one.new,
            "quantity": one.quantity,
            "false": [share_json(share) for share in one.false],
            "new_data": {"rate": one.mean_rate, "at_most_95": one.upto},
            "recall": [share_json(share) for share in one.recall],
        }
        for one in found.bounds
    ]
    plain: dict[str, Any] = {"rate": rate, "bounds": bounds, "left": list(found.left)}
    if shadow is not None:
        plain["shadow"] = {
            "turns": shadow.turns,
            "calls": shadow.calls,
            "decisions": dict(shadow.decisions),
            "withheld": share_json(shadow.withheld),
            "edited": dict(shadow.edited),
            "not_read": shadow.other,
        }
    return plain


def _old(one: Calibrated) -> str:
    """The old bound as the file says it."""
    return _said(getattr(one.reading.reading, one.key))


def _said(quantity: float | str) -> str:
    return quantity if isinstance(quantity, str) else f"{quantity:.6g}"
