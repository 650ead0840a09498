"""`steerkit eval`: what a policy does, beside its controls; and what a model scores on public suites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from steerkit.cli.loading import progress, stoppable, this_command
from steerkit.cli.options import Device, Dtype, Graphs, Limit, Model, Prepack, Saes, VllmSettings, how_to_run
from steerkit.cli.suites import Asked, Suite, score_suite, write_json
from steerkit.cli.workers import AnyEngine, Where, Workers, mapper_of, where_named
from steerkit.errors import SaeError
from steerkit.report import console, say_line

if TYPE_CHECKING:
    from steerkit.lab.prove import Evaluation


_Policy = Annotated[Path | None, typer.Option(metavar="FILE", help="The policy that is proved.")]
_Harmful = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="JSONL file of conversations, messages and tools, that ask for a dangerous call."
    ),
]
_Benign = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The same of conversations that must stay as they are.")
]
_Beside = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Another policy to run beside it; may be given several times."),
]
_Dangerous = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TOOL", help="Dangerous tool; may be given several times (default: those that the guard restricts)."
    ),
]
_Suite = Annotated[Suite | None, typer.Option(help="Instead: score a public suite, the first two with --data.")]
_Data = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Folder of BFCL's files, or Mobile Actions' JSONL file.")
]
_Arms = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES", help="Of a suite: some of plain, shadow, steering, guard, policy, ungated (no gates)."
    ),
]
_Attack = Annotated[
    str | None, typer.Option(metavar="NAME", help="With agentdojo: how injections are written (default: none are).")
]
_Agent = Annotated[
    Literal["model", "ground-truth", "obedient"] | None,
    typer.Option(help="With agentdojo: who plays, the model (default) or a script that needs none."),
]
_Suites = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="With agentdojo: such as banking,slack/user_task_0 (default: all suites)."),
]
_Turns = Annotated[
    int | None, typer.Option(metavar="NUMBER", min=1, help="With agentdojo: turns at most (default: 15).")
]
_Ask = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What the developer's text says in the prompt-only arm.")
]
_Seeds = Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Random controls.")]
_Doses = Annotated[str, typer.Option(metavar="NUMBERS", help="Multiples of the policy's edit.")]
_Pairs = Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Pairs of batches for the latency; 0 for none.")]
_Longest = Annotated[
    int | None,
    typer.Option(metavar="NUMBER", min=1, help="Length of a reply at most (default: 128; 768 or 512 in suites)."),
]
_Batch = Annotated[int, typer.Option(metavar="NUMBER", min=1, help="Conversations that are generated together.")]
_Probes = Annotated[bool, typer.Option("--probes/--no-probes", help="Fit probes where the policy reads.")]
_Seed = Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Of the halves for probes and directions.")]
_Out = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Folder that keeps finished arms: a killed run resumes there.")
]
_Results = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="With bfcl: folder for the replies as BFCL's own scorer reads them."),
]
_Json = Annotated[Path | None, typer.Option(metavar="FILE", help="Write JSON to this file; - for standard output.")]
_Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with figures to this file.")]


def eval_command(
    policy: _Policy = None,
    harmful: _Harmful = None,
    benign: _Benign = None,
    beside: _Beside = None,
    dangerous: _Dangerous = None,
    suite: _Suite = None,
    data: _Data = None,
    arms: _Arms = None,
    attack: _Attack = None,
    agent: _Agent = None,
    suites: _Suites = None,
    max_turns: _Turns = None,
    model: Model = "tiny",
    saes: Saes = None,
    limit: Limit = None,
    ask: _Ask = None,
    seeds: _Seeds = 3,
    doses: _Doses = "0,0.25,0.5,1,1.5,2,3,4",
    pairs: _Pairs = 5,
    probes: _Probes = True,
    max_new_tokens: _Longest = None,
    batch: _Batch = 32,
    seed: _Seed = 0,
    out: _Out = None,
    raw_results: _Results = None,
    json: _Json = None,
    html: _Html = None,
    engine: AnyEngine = "local",
    workers: Workers = None,
    vllm: VllmSettings = None,
    device: Device = None,
    dtype: Dtype = None,
    prepack: Prepack = None,
    graphs: Graphs = "auto",
) -> None:
    """Prove a policy on harmful and benign conversations, beside its controls; or score a model on a public suite.

    A file has one conversation a line: {"messages": [{"role": "user", "content": "…"}], "tools": […], "group": "…"};
    copies and rows of one group count once. A row may say what is "dangerous". steerkit/lab/README.md says more.
    """
    run = (limit, batch, max_new_tokens, out, raw_results, json)
    asked = Asked(suite, policy, arms, data, attack, agent, suites, max_turns, *run)
    asked.check({"--policy": policy, "--harmful": harmful, "--benign": benign}, html, beside or ())
    given = {"ask": ask, "seeds": seeds, "doses": _doses(doses), "pairs": pairs, "probes": probes, "seed": seed}
    at = where_named(engine, workers, vllm or (), model, saes, how_to_run(device, dtype, prepack, graphs))
    if suite is not None:
        return score_suite(at, asked)
    files = [file for file in (harmful, benign, policy, *(beside or ())) if file is not None]
    return _show(_evaluation(at, files, dangerous or (), limit, {**given, **asked.length}, out), json, html)


def _standing(out: Path | None) -> str:
    """The state that a stopped evaluation leaves, and how to resume it."""
    if out is None:
        return f"nothing is kept; with --out FOLDER finished arms are, and a run resumes there: {this_command()}"
    variants = len(list(out.glob("*.jsonl"))) if out.is_dir() else 0
    return f"{variants} finished arms stand in {out}; go on with {this_command()}"


def _evaluation(
    at: Where, files: Sequence[Path], dangerous: Any, limit: int | None, settings: dict[str, Any], out: Path | None
) -> Evaluation:
    from steerkit.lab.prove import Settings, distinct, evaluate, read_dataset
    from steerkit.policy import load

    harmful, benign, *policies = files
    policy, *beside = map(load, policies)
    dataset, notes = distinct(read_dataset(harmful, benign, policy, dangerous=dangerous, limit=limit))
    for note in notes:
        say_line(f"note: {note}")
    if at.engine == "ray-vllm" and settings["pairs"]:
        say_line("note: no latency, as that is measured here and vLLM is not; --engine vllm measures it")
        settings = {**settings, "pairs": 0}
    runtime = at.here()
    with (
        stoppable(lambda: _standing(out)),
        progress(1, "conversations") as report,
        mapper_of(at, runtime) as mapper,
    ):
        how = Settings(**settings)
        return evaluate(runtime, policy, dataset, how, beside=beside, mapper=mapper, out=out, report=report)


def _show(found: Evaluation, json: Path | None, html: Path | None) -> None:
    from steerkit.report import evaluation_json, show_evaluation, write_page

    out = console()
    if json is None or str(json) != "-":
        show_evaluation(out, found)
    write_json(json, evaluation_json(found))
    if html is not None:
        write_page(html, evaluation_json(found))
        say_line(f"wrote {html}")


def _doses(said: str) -> tuple[float, ...]:
    try:
        found = tuple(sorted({float(part) for part in said.split(",")}))
    except ValueError:
        raise SaeError(f"--doses: got {said!r}, expected numbers such as 0,0.5,1,2") from None
    if not all(0 <= dose < 1e6 for dose in found):
        raise SaeError(f"--doses: got {said!r}, expected numbers of at least 0")
    return found
