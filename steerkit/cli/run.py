"""`steerkit run`: one turn on any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from steerkit.cli.audit.options import StoreOption
from steerkit.cli.loading import read_tools
from steerkit.cli.options import Device, Dtype, Graphs, Model, Policies, Prepack, Saes, Tools, how_to_run
from steerkit.errors import SettingError
from steerkit.files import read_json
from steerkit.report import (
    console,
    constrained_text,
    edit_text,
    highest,
    print_json,
    reply_lines,
    reply_text,
    turn_data,
    verdict_data,
    verdict_text,
    watched_lines,
)

_Choice = Annotated[
    str | None,
    typer.Option(metavar="CHOICE", help="none, auto, required or a tool's name."),
]
_Parallel = Annotated[bool, typer.Option("--parallel/--no-parallel", help="Let a reply have several calls.")]
_Schema = Annotated[Path | None, typer.Option(metavar="FILE", help="Schema of the reply's text, JSON then.")]
_Stop = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End the reply's text before this.")]


def run_command(
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="What the user says.")],
    tools: Tools = None,
    model: Model = "tiny",
    saes: Saes = None,
    policy: Policies = None,
    store: StoreOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="COUNT", help="Longest reply.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, metavar="NUMBER", help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Of the sampling.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    prepack: Prepack = None,
    graphs: Graphs = "auto",
    counterfactual: Annotated[
        bool, typer.Option("--counterfactual", help="Record as well what the model does without steering.")
    ] = False,
    tool_choice: _Choice = None,
    parallel: _Parallel = True,
    response_format: _Schema = None,
    stop: _Stop = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
) -> None:
    """Take one turn: generate under the policies, judge the calls, write the record."""
    declared = read_tools(tools)
    from steerkit.agent import load

    how = how_to_run(device, dtype, prepack, graphs)
    runtime = load(model, saes, policy or (), audit=store, counterfactual=counterfactual, **how)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    settings |= {"tool_choice": tool_choice, "stop": stop or (), "response_format": _schema(response_format)}
    settings["parallel_tool_calls"] = None if parallel else False
    turn = runtime.run([{"role": "user", "content": message}], declared, **settings)
    if json:
        print_json({**turn_data(turn), "verdicts": verdict_data(turn), "record": turn.record_id})
        return
    out = console()
    for line in reply_lines(turn.calls, turn.text):
        out.print(line)
    for verdict in turn.verdicts:
        out.print(verdict_text(verdict))
    for edit in turn.trace.edits:
        out.print(f"edited   {edit_text(edit)}")
    if (other := turn.counterfactual) is not None:
        out.print(f"without  {reply_text(other.calls, other.text)}")
    for line in watched_lines(turn, runtime.policies, highest([turn])):
        out.print(f"watched  {line}")
    if turn.constrained is not None:
        out.print(f"grammar  {constrained_text(turn)}")
    out.print(f"record   {turn.record_id}")


def _schema(path: Path | None) -> dict[str, Any] | None:
    """The response format of a file's JSON Schema. Raises SettingError."""
    if path is None:
        return None
    schema = read_json(path, SettingError, "a JSON file with a JSON Schema")
    return {"type": "json_schema", "json_schema": {"name": path.stem, "schema": schema}}
