"""`steerkit calibrate`: the bounds of a policy for a wanted rate of false positives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.reading import progress
from steerkit.cli.sae_options import Device, Dtype, Limit, Model, Saes, load_named
from steerkit.cli.view import console, print_json
from steerkit.errors import SaeError

if TYPE_CHECKING:
    from steerkit.lab.policy_readings import PlacedReading
    from steerkit.lab.shadow import Shadow
    from steerkit.lab.thresholds import Calibration
    from steerkit.policy import Policy
    from steerkit.runtime import Runtime

_Values = "Callable[[PlacedReading], Sequence[float]]"


def calibrate_command(
    policy: Annotated[Path, typer.Argument(help="The policy file.")],
    data: Annotated[Path | None, typer.Option(help="JSONL file of benign conversations, messages and tools.")] = None,
    positive: Annotated[
        Path | None, typer.Option(help="The same of conversations that the conditions are meant for.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Instead of --data: an audit store with turns of this policy in shadow mode.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of benign conversations each condition may hold for.")
    ] = 0.01,
    write: Annotated[Path | None, typer.Option(help="Write the policy with the new bounds to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    model: Model = "tiny",
    saes: Saes = None,
    limit: Limit = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a reply at most.")] = 128,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Choose the bounds of a policy's gates and guard for a wanted rate of false positives.

    This sets when a policy acts. `steerkit sae calibrate` is something else: it measures the features' statistics, the
    units in which strengths and bounds may be given.
    """
    from steerkit.lab.found_policy import refuse_present, write_policy
    from steerkit.lab.thresholds import calibrate, with_bounds
    from steerkit.policy import load

    if (data is None) == (store is None):
        raise SaeError("calibrate: expected either --data with benign conversations, or --store with a shadow run")
    if write is not None:
        refuse_present(write, force=force)
    loaded = load(policy)
    shadow = None if store is None else _shadow(store, loaded)
    if shadow is not None:
        found = calibrate(loaded, shadow.values, None, rate, _statistic(loaded, saes or model))
    else:
        from steerkit.runtime import load as load_runtime

        runtime = load_runtime(model, saes, device=device, dtype=dtype, audit=False)
        files = [file for file in (data, positive) if file is not None]
        values = [_values(runtime, loaded, file, limit, max_new_tokens) for file in files]
        known = None if runtime.saes is None else runtime.saes.statistic
        found = calibrate(loaded, values[0], values[1] if positive else None, rate, known)
    if json:
        print_json(_plain(found, shadow, rate))
    else:
        _show(found, shadow, rate)
    if write is not None:
        write_policy(with_bounds(loaded, found.bounds), write, force=force)
        typer.echo(f"wrote {write}", err=True)
