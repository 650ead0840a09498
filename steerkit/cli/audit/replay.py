"""`steerkit audit replay`: recorded turns replayed, as they were or under other policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.audit.options import (
    JsonOption,
    RecordedDevice,
    RecordedDtype,
    RecordedModel,
    RecordedSaes,
    StoreOption,
    opened,
)
from steerkit.cli.loading import progress
from steerkit.cli.workers import Engine, Kind, Workers, mapper_of, where
from steerkit.errors import AuditError
from steerkit.report import console, print_json, reply_text, short

if TYPE_CHECKING:  # loaded when a command needs it
    from steerkit.audit import RecordedTurn, Store
    from steerkit.runtime import Replayed


_Ids = Annotated[
    list[str],
    typer.Argument(metavar="ID...", help="A turn's or a run's id, its beginning, or a record's number; one or more."),
]
_Alternatives = Annotated[
    int,
    typer.Option(
        min=0, max=50, metavar="COUNT", help="With --json: the likeliest tokens at each step of the recorded reply."
    ),
]


def replay(
    ids: _Ids,
    store: StoreOption = None,
    verdicts: Annotated[
        bool, typer.Option("--verdicts", help="Only judge the recorded calls again; loads no model.")
    ] = False,
    without_steering: Annotated[
        bool, typer.Option("--without-steering", help="Show what the model does under the same policies unsteered.")
    ] = False,
    policy: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Show what it does under these policies instead; may be given often."),
    ] = None,
    model: RecordedModel = None,
    saes: RecordedSaes = None,
    device: RecordedDevice = None,
    dtype: RecordedDtype = None,
    engine: Engine = "local",
    workers: Workers = None,
    alternatives: _Alternatives = 0,
    json: JsonOption = False,
) -> None:
    """Replay recorded turns: the same tokens and verdicts, or the first difference and its likely cause."""
    if verdicts + without_steering + bool(policy) > 1:
        raise AuditError("replay: got several of --verdicts, --without-steering and --policy; expected one at most")
    if (verdicts or without_steering or policy) and (engine != "local" or workers is not None):
        raise AuditError("replay: got --engine or --workers with what is done here alone; expected turns to make again")
    if alternatives and (not json or verdicts or without_steering or policy):
        raise AuditError("replay: got --alternatives without --json, or with what replays no turn as it was")
    found = _turns(opened(store), ids)
    if without_steering or policy:
        for some in _alike(found):
            runtime = _loader(some[0], model, saes, device, dtype)()
            for turn in some:
                _tell_what_if(runtime, turn, policy or (), json)
        return
    if verdicts:
        told = [_tell(turn, result, json, {}) for turn, result in _judged(found)]
    else:
        made = partial(_made_again, alternatives)
        replayed = _replayed(found, (model, saes, device, dtype), made, engine, workers)
        told = [_tell(turn, result, json, more) for turn, (result, more) in replayed]
    if not all(told):
        raise typer.Exit(1)


def _turns(log: Store, ids: Sequence[str]) -> list[RecordedTurn]:
    """The turns of records and runs."""
    from steerkit.audit import read_turn, turns_of

    found = []
    for id in ids:
        turns = [read_turn(log, record) for record in turns_of(log, id)]
        if not turns:
            raise AuditError(f"{log.path}: run {id} has no turn to replay")
        found += turns
    return found


def _judged(turns: Sequence[RecordedTurn]) -> Iterator[tuple[Any, Any]]:
    """The verdicts recomputed from what the records say."""
    from steerkit.audit import PolicyIdentity, compare_verdicts
    from steerkit.guard import policies_in, rejudge
    from steerkit.policy import fingerprint
    from steerkit.types import Trace

    for turn in turns:
        policies = policies_in(turn.record)
        again = rejudge(turn.record, policies, turn.trace or Trace())
        yield turn, compare_verdicts(turn, again, [PolicyIdentity(one.name, fingerprint(one)) for one in policies])


def _replayed(
    turns: Sequence[RecordedTurn], given: Sequence[str | None], made_again: Any, engine: Kind, workers: int | None
) -> Iterator[Any]:
    """Replayed turns and their outcome; from a cluster all at the end, as Ray speaks while it is there."""
    for some in _alike(turns):
        at = where(engine, workers, _loader(some[0], *given), given[2] or some[0].record.model.device)
        with mapper_of(at) as mapper:
            made = mapper(made_again, some)
            if engine == "local":
                yield from zip(some, made, strict=True)
                continue
            with progress(len(some), "turns") as report:
                results = []
                for result in made:
                    results.append(result)
                    report(len(results))
        yield from zip(some, results, strict=True)


def _made_again(count: int, runtime: Any, turn: Any) -> Any:
    """One turn, wherever it is done: how it compares, and as JSON what was made."""
    from steerkit.audit import compare
    from steerkit.runtime import alternatives
    from steerkit.runtime import replay as again

    made = again(runtime, turn)
    steps = [[one._asdict() for one in step] for step in alternatives(runtime, turn, count)] if count else []
    more = {"report": "replay", "how": "again", "made": _side(made), "alternatives": steps}
    return compare(turn, made.record, made.turn.trace), more


def _alike(turns: Sequence[RecordedTurn]) -> Iterator[list[RecordedTurn]]:
    """Turns that follow each other and were made with a model and SAEs of the same names, in the same way."""

    def way(turn: RecordedTurn) -> tuple[Any, ...]:
        model, saes = turn.record.model, turn.record.saes
        return model.name, model.device, model.dtype, turn.record.prepacked, saes and saes.name

    for _, some in groupby(turns, way):
        yield list(some)


def _loader(turn: RecordedTurn, model: str | None, saes: str | None, device: str | None, dtype: str | None) -> Any:
    """Loads a runtime as the record asks for it, without a store."""
    from steerkit.agent import load_recorded

    return partial(load_recorded, turn, model=model, saes=saes, device=device, dtype=dtype)


def _tell(turn: RecordedTurn, result: Any, json: bool, more: Mapping[str, Any]) -> bool:
    """Say what came of a replay, as JSON with `more`; whether nothing differs."""
    if json:
        difference = None if result.difference is None else result.difference._asdict()
        changed = [one._asdict() for one in result.changed]
        told = {"tokens": result.tokens, "verdicts": result.verdicts, "difference": difference, "changed": changed}
        print_json({"record": turn.id, "same": result.same, **told, "missing": turn.missing, **more})
        return bool(result.same)
    out = console()
    length = len(turn.record.reply_ids)
    said = "" if result.tokens is None else f"the same {length} tokens, " if result.tokens else "other tokens, "
    count = len(turn.record.verdicts)
    judged = f"{'the same' if result.verdicts else 'other'} verdicts ({count})"
    out.print(f"{'ok' if result.same else 'DIFFERS':<8} {turn.id}  {said}{judged}")
    if turn.missing:
        out.print(f"missing  the record does not say: {', '.join(turn.missing)}")
    if result.difference is not None:
        path, then, now = result.difference
        out.print(f"first    {path}: recorded {short(then)}, now {short(now)}")
    for path, then, now in result.changed:
        word = "changed" if result.same else "likely"
        out.print(f"{word:<8} {path}: recorded {short(then)}, now {short(now)}")
    if result.difference is not None and not result.changed:
        out.print("likely   nothing that shaped it has changed, so the record was: see `steerkit audit verify`")
    return bool(result.same)


def _tell_what_if(runtime: Any, turn: RecordedTurn, files: Sequence[Path], json: bool) -> None:
    """Show the recorded turn beside the one under other policies."""
    from steerkit.audit import diff_calls
    from steerkit.guard import policies_in
    from steerkit.runtime import policies_for, unsteered, what_if

    policies = policies_for(files, runtime.engine) if files else unsteered(policies_in(turn.record))
    found = what_if(runtime, turn, policies)
    first, second = found.first.record, found.second.record
    nodes = diff_calls(first.calls, second.calls)
    same = first.reply_ids == turn.record.reply_ids
    if json:
        sides = {name: _side(one) for name, one in (("recorded", found.first), ("other", found.second))}
        how = "under other policies" if files else "without steering"
        made = {"report": "replay", "how": how, "made": sides["other"]}
        moments = [{**one._asdict(), "divergence": one.divergence._asdict()} for one in found.moments]
        diff = [node._asdict() for node in nodes]
        print_json({"record": turn.id, "reproduced": same, **sides, "diff": diff, "moments": moments, **made})
        return
    out = console()
    out.print(f"record   {turn.id}{'' if same else '  (the replay of it differs: see `audit replay` without options)'}")
    for name, record in (("recorded", first), ("without" if not files else "instead", second)):
        out.print(f"{name:<8} {reply_text(record.calls, record.text)}")
        for verdict in record.verdicts:
            out.print(f"         {verdict.decision.upper()}  {verdict.policy or 'guard'}/{verdict.rule}")
    for node in nodes:
        out.print(_node_text(node))
    for one in found.moments:
        out.print(_moment_text(one))
    if not found.moments:
        out.print("decides  no token: both replies are the same, and neither is a call")


def _side(made: Replayed) -> dict[str, Any]:
    """What was made, with the activity of its layers."""
    from steerkit.audit import as_json, layer_activity

    record, activity = made.record, layer_activity(made.turn.trace, len(made.turn.prompt_ids))
    shown = {key: as_json(getattr(record, key)) for key in ("text", "calls", "verdicts", "finish", "reply_ids")}
    policies = [{"name": one.name, "fingerprint": one.fingerprint} for one in record.policies]
    return {**shown, "policies": policies, "layers": {str(site): value for site, value in activity.items()}}


def _node_text(node: Any) -> str:
    """One leaf of the diff in the manner of diffs."""
    if node.kind == "same":
        return f"  {node.path}: {short(node.first)}"
    if node.kind == "changed":
        return f"~ {node.path}: {short(node.first)} | {short(node.second)}"
    return f"- {node.path}: {short(node.first)}" if node.kind == "removed" else f"+ {node.path}: {short(node.second)}"


def _moment_text(one: Any) -> str:
    """A deciding token, and how far apart the policies are there."""
    chances = " | ".join(f"{chance:.3g}" for chance in one.probabilities)
    bits = f"KL {one.divergence.kl:.3g} bits, Jensen-Shannon {one.divergence.js:.3g} bits"
    there = f", there {short(one.other_token)}" if "replies part" in one.at else ""
    return f"decides  token {one.step} ({', '.join(one.at)}): {short(one.token)} has {chances}{there}; {bits}"
