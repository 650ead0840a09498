"""`steerkit features find`: from two files of example conversations to a policy."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.loading import (
    check_conversations,
    check_place,
    check_policy_out,
    load_with_saes,
    progress,
    stoppable,
    this_command,
)
from steerkit.cli.options import Device, Dtype, Generates, Limit, Model, Saes, VllmSettings, generated_by
from steerkit.report import Source, console, print_json, say_line, show_causes, show_found, show_steering_edits

if TYPE_CHECKING:
    from steerkit.engine import LoadedModel
    from steerkit.lab import Case, Material
    from steerkit.lab.find import Causes, Decisions, Found, SteeringEdits
    from steerkit.sae import SaeSet

_Positive = Annotated[
    Path, typer.Option(metavar="FILE", help="JSONL file of conversations that show what is looked for.")
]
_Negative = Annotated[
    Path, typer.Option(metavar="FILE", help="JSONL file of conversations, as like them as can be, that do not.")
]
_Longest = Annotated[
    int, typer.Option(metavar="NUMBER", min=1, help="Length at most of a reply that a file does not bring.")
]
_At = Annotated[
    str,
    typer.Option(
        metavar="PLACE", help="Place that is read, as in a policy: user, tool_result, call.open, call.arguments.to, …"
    ),
]
_Strength = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        min=0,
        help="Of the policy's edits; 1 makes features what they are in the negatives [default: measured].",
    ),
]
_HeldOut = Annotated[
    float,
    typer.Option(metavar="NUMBER", min=0.1, max=0.9, help="Share of the conversations that results are measured on."),
]
_Top = Annotated[int, typer.Option(metavar="NUMBER", min=1, help="Features to list.")]
_Most = Annotated[int, typer.Option(metavar="NUMBER", min=1, max=64, help="Features that a probe may combine.")]
_Causal = Annotated[
    bool, typer.Option("--causal", help="Also edit the best candidates, and say which of them cause the call.")
]
_Html = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Also write a page to this file; it needs no network.")
]
_Write = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a policy in shadow mode to this file; with --causal it steers, too."),
]


def find(
    positive: _Positive,
    negative: _Negative,
    at: _At = "reply.start",
    model: Model = "tiny",
    saes: Saes = None,
    limit: Limit = None,
    top: _Top = 10,
    most: _Most = 8,
    held_out: _HeldOut = 0.5,
    seed: Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Of the split and of the random directions.")] = 0,
    causal: _Causal = False,
    candidates: Annotated[int, typer.Option(metavar="NUMBER", min=2, help="Features that --causal edits.")] = 20,
    strength: _Strength = None,
    max_new_tokens: _Longest = 128,
    write: _Write = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a policy that is there.")] = False,
    html: _Html = None,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    engine: Generates = "transformers",
    vllm: VllmSettings = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Rank the features of all layers by how well they tell two sets of conversations apart, and fit probes.

    A file has one conversation a line: {"messages": [{"role": "user", "content": "…"}], "tools": […], "group": "…"};
    rows that name one group, copies and near-copies count once. steerkit/lab/README.md says more.
    """
    from steerkit.lab.find import Decisions, directions_beside, find_steering_edits
    from steerkit.lab.find import find as find_in

    _check(at, (positive, negative), limit)
    for path in () if write is None else (write, *directions_beside(write, steering=causal).values()):
        check_policy_out(path, force=force)
    with stoppable(lambda: f"nothing was written; start again with {this_command()}"):
        loaded, sae_set = load_with_saes(model, saes, device, dtype, generated_by(engine, vllm or ()))
        read = {"limit": limit, "max_new_tokens": max_new_tokens}
        material, without = _read(loaded, sae_set, (positive, negative), at, read, held_out, seed)
        _say(*material.notes, *(_too_few(material, candidates, held_out) if causal else ()))
        found = find_in(loaded, sae_set, material, at, top=top, most=most, seed=seed)
        decisions = Decisions(loaded, sae_set, material, at) if causal else None
        tried = _causes(decisions, found, candidates, seed) if decisions else None
        steering = find_steering_edits(decisions, found, strength=strength, most=most, seed=seed) if decisions else None
    source = Source(loaded.name, sae_set.name, (positive.name, negative.name), without, tuple(material.notes))
    _show(found, tried, steering, source, json=json, html=html)
    if write is not None:
        _write_down(loaded, sae_set, found, steering, write, material, (positive, negative), force=force)
        options = {"--model": model, "--saes": saes, "--device": device, "--dtype": dtype}
        _say_next(loaded, write, (positive, negative), read, options)


def _write_down(
    loaded: LoadedModel,
    sae_set: SaeSet,
    found: Found,
    steering: SteeringEdits | None,
    path: Path,
    material: Material,
    files: tuple[Path, Path],
    *,
    force: bool,
) -> None:
    from steerkit.lab import source_of
    from steerkit.lab.find import write_found

    sources = [source_of(file, count) for file, count in zip(files, material.counts(material.chosen), strict=True)]
    for name, file in write_found(loaded, sae_set, found, steering, path, sources, force=force).items():
        say_line(f"wrote {file}: the direction '{name}' of the policy")
    say_line(f"wrote {path}: in shadow mode; see {shlex.join(('steerkit', 'policy', 'explain', str(path)))}")


def _too_few(material: Material, candidates: int, held_out: float) -> list[str]:
    """A note, before it runs, on how few conversations --causal has."""
    from math import ceil

    from steerkit.lab import LEVEL
    from steerkit.lab.find import CASES, fewest_positives, least_p

    count = min(CASES, material.counts(material.held)[0])
    least, needed = least_p(count, candidates), fewest_positives(candidates)
    if least < LEVEL:
        return []
    few = next((fewer for fewer in range(candidates, 0, -1) if least_p(count, fewer) < LEVEL), 0)
    fewer = f", or --candidates {few}" if few > 1 else ""
    return [
        f"--causal cannot tell what causes the decision: with {count} held-out positives and {candidates} candidates "
        f"the smallest corrected p possible is {least:.2g}, not below {LEVEL:g}; it takes {needed} held-out "
        f"positives, about {ceil(needed / held_out)} positive conversations at --held-out {held_out:g}{fewer}"
    ]


def _say_next(
    loaded: LoadedModel,
    policy: Path,
    files: tuple[Path, Path],
    read: Mapping[str, Any],
    options: Mapping[str, str | None],
) -> None:
    """The command that proves the policy."""
    from steerkit.lab.prove import dangerous_tools

    named = {"--policy": policy, "--harmful": files[0], "--benign": files[1], **options}
    parts = [part for option, value in named.items() if value is not None for part in (option, str(value))]
    parts += [part for tool in dangerous_tools(loaded, *files, **read) for part in ("--dangerous", tool)]
    command = shlex.join(("steerkit", "eval", *parts))
    say_line(f"next: prove it, best on conversations that it was not found in: {command}")


def _show(
    found: Found,
    tried: Causes | None,
    steering: SteeringEdits | None,
    source: Source,
    *,
    json: bool,
    html: Path | None,
) -> None:
    """Print a line of JSON, else tables; and write a page where one is asked for."""
    from steerkit.report import found_json, write_page

    if json:
        print_json(found_json(found, tried, steering, source))
    else:
        show_found(console(), found, source.without_place)
        if tried is not None:
            show_causes(console(), tried)
            show_steering_edits(console(), steering)
    if html is not None:
        write_page(html, found_json(found, tried, steering, source))


def _say(*notes: str) -> None:
    for note in notes:
        say_line(f"note: {note}")


def _check(at: str, files: tuple[Path, Path], limit: int | None) -> None:
    """Refuse a missing extra, a wrong place and unreadable files before a model is loaded."""
    from steerkit.lab import check_extra

    check_extra("finding features")
    check_place(at)
    for file in files:
        check_conversations(file, limit)


def _read(
    loaded: LoadedModel,
    sae_set: SaeSet,
    files: tuple[Path, Path],
    at: str,
    read: Mapping[str, Any],
    held_out: float,
    seed: int,
) -> tuple[Material, int]:
    """Both files' conversations with their features, and how many had no step at the place."""
    from steerkit.lab import read_cases, read_material

    parts: list[list[Case]] = []
    without = 0
    for file in files:
        cases, missing = read_cases(file, loaded, at, **read)
        parts.append(cases)
        without += missing
    with progress(sum(map(len, parts)), "conversations") as report:
        material = read_material(loaded, sae_set, parts[0], parts[1], held_out=held_out, seed=seed, report=report)
    return material, without


def _causes(decisions: Decisions, found: Found, candidates: int, seed: int) -> Causes:
    from steerkit.lab.find import causes

    with progress(candidates, "edits") as report:
        return causes(decisions, found, candidates=candidates, seed=seed, report=report)
