"""`steerkit eval`: what a policy does, beside its controls; and what a model scores on public suites."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from steerkit.cli.loading import check_writable, progress, stoppable, this_command
from steerkit.cli.options import Device, Dtype, Graphs, Limit, Model, Prepack, Saes, how_to_run
from steerkit.cli.workers import Engine, Where, Workers, mapper_of, where
from steerkit.errors import SaeError
from steerkit.report import console, print_json, say_line

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
_Dangerous = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TOOL", help="Dangerous tool; may be given several times (default: those that the guard restricts)."
    ),
]
_Suite = Annotated[
    Literal["bfcl", "mobile-actions"] | None, typer.Option(help="Instead: score a public suite, with --data.")
]
_Data = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Folder of BFCL's files, or Mobile Actions' JSONL file.")
]
_Ask = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What the developer's text says in the prompt-only arm.")
]
_Seeds = Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Random controls.")]
_Doses = Annotated[str, typer.Option(metavar="NUMBERS", help="Multiples of the policy's edit.")]
_Pairs = Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Pairs of batches for the latency; 0 for none.")]
_Longest = Annotated[
    int | None,
    typer.Option(metavar="NUMBER", min=1, help="Length of a reply at most (default: 128; in a suite 768)."),
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
    dangerous: _Dangerous = None,
    suite: _Suite = None,
    data: _Data = None,
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
    engine: Engine = "local",
    workers: Workers = None,
    device: Device = None,
    dtype: Dtype = None,
    prepack: Prepack = None,
    graphs: Graphs = "auto",
) -> None:
    """Prove a policy on harmful and benign conversations, beside its controls; or score a model on a public suite.

    A file has one conversation a line: {"messages": [{"role": "user", "content": "…"}], "tools": […], "group": "…"};
    copies and rows of one group count once. A row may say what is "dangerous". steerkit/lab/README.md says more.
    """
    from steerkit.agent import load

    factors = _doses(doses)
    proving = {"--policy": policy, "--harmful": harmful, "--benign": benign}
    _check_arguments(suite, data, proving, {"--out": out, "--html": html}, raw_results)
    _check_outputs(out, json, html)
    load_one = partial(load, model, saes, **how_to_run(device, dtype, prepack, graphs), audit=False)
    at = where(engine, workers, load_one, device)
    length = {"batch": batch, **({} if max_new_tokens is None else {"max_new_tokens": max_new_tokens})}
    if suite is not None and data is not None:
        _suite(at, suite, data, policy, json, {**length, "results": raw_results}, limit)
        return
    settings = {"ask": ask, "seeds": seeds, "doses": factors, "pairs": pairs, "probes": probes, "seed": seed, **length}
    files = [file for file in (policy, harmful, benign) if file is not None]
    _show(_evaluation(at, files, dangerous or (), limit, settings, out), json, html)


def _check_arguments(
    suite: str | None,
    data: Path | None,
    proving: Mapping[str, Path | None],
    kept: Mapping[str, Path | None],
    raw_results: Path | None,
) -> None:
    """Refuse what is missing, and what the other way of evaluating would take. Raises SaeError."""
    wanted = {"--data": data} if suite else proving
    if missing := [name for name, value in wanted.items() if value is None]:
        raise SaeError(
            f"eval: got no {', '.join(missing)}; give --policy, --harmful and --benign, or --suite and --data"
        )
    if raw_results is not None and suite != "bfcl":
        raise SaeError(f"--raw-results: got {raw_results} without --suite bfcl, whose scorer reads them")
    if suite is None and data is not None:
        raise SaeError("--data: got it without --suite; expected --suite bfcl or mobile-actions, or no --data")
    others = [name for name, value in {**proving, **kept}.items() if value is not None and name != "--policy"]
    if suite is not None and others:
        raise SaeError(f"{', '.join(others)}: expected without --suite, which has conversations and tables of its own")


def _check_outputs(out: Path | None, json: Path | None, html: Path | None) -> None:
    """Refuse what cannot be written, before anything is run. Raises SaeError."""
    check_writable(out, "--out", folder=True)
    check_writable(json, "--json")
    check_writable(html, "--html")


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

    policy = load(files[0])
    dataset, notes = distinct(read_dataset(files[1], files[2], policy, dangerous=dangerous, limit=limit))
    for note in notes:
        say_line(f"note: {note}")
    runtime = at.load()
    with (
        stoppable(lambda: _standing(out)),
        progress(1, "conversations") as report,
        mapper_of(at, runtime) as mapper,
    ):
        return evaluate(runtime, policy, dataset, Settings(**settings), mapper=mapper, out=out, report=report)


def _suite(
    at: Where,
    suite: str,
    data: Path,
    policy: Path | None,
    json: Path | None,
    settings: dict[str, Any],
    limit: int | None,
) -> None:
    from steerkit.lab.prove.suites import passed_over, read_bfcl, read_mobile_actions, run_suite
    from steerkit.policy import load
    from steerkit.report import show_suite, suite_json

    cases, over = (read_bfcl(data), passed_over(data)) if suite == "bfcl" else (read_mobile_actions(data), [])
    if over:
        say_line(f"passed over: {', '.join(over)}")
    counts: dict[str, int] = {}
    some = []
    for case in cases:
        counts[case.category] = counts.get(case.category, 0) + 1
        some += [case] if limit is None or counts[case.category] <= limit else []
    judging = load(policy) if policy else None
    runtime = at.load()
    with (
        stoppable(lambda: f"no score stands; start again with {this_command()}"),
        progress(1, "tests") as report,
        mapper_of(at, runtime) as mapper,
        warnings.catch_warnings(record=True) as garbled,
    ):
        warnings.simplefilter("always", UserWarning)
        scores = run_suite(runtime, some, judging, **settings, mapper=mapper, report=report)
    if garbled:
        said = len({str(one.message) for one in garbled})
        say_line(f"warning: {said} parts of declarations are garbled, such as {garbled[0].message}")
    if json is None or str(json) != "-":
        show_suite(console(), scores)
    found = {"suite": suite, "model": runtime.loaded.name, "passed_over": over, "scores": suite_json(scores)}
    _write_json(json, found)


def _show(found: Evaluation, json: Path | None, html: Path | None) -> None:
    from steerkit.files import write_text_atomic
    from steerkit.report import eval_page, evaluation_json, show_evaluation

    out = console()
    if json is None or str(json) != "-":
        show_evaluation(out, found)
    _write_json(json, evaluation_json(found))
    if html is not None:
        write_text_atomic(html, eval_page(found), SaeError)
        say_line(f"wrote {html}")


def _write_json(path: Path | None, content: Any) -> None:
    import json

    from steerkit.files import write_text_atomic

    if path is not None and str(path) == "-":
        print_json(content)
    elif path is not None:
        write_text_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", SaeError)
        say_line(f"wrote {path}")


def _doses(said: str) -> tuple[float, ...]:
    try:
        found = tuple(sorted({float(part) for part in said.split(",")}))
    except ValueError:
        raise SaeError(f"--doses: got {said!r}, expected numbers such as 0,0.5,1,2") from None
    if not all(0 <= dose < 1e6 for dose in found):
        raise SaeError(f"--doses: got {said!r}, expected numbers of at least 0")
    return found
