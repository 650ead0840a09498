"""`steerkit view`: the records in a browser."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from steerkit.cli.audit.files import write_out
from steerkit.cli.audit.keys import CheckpointOption, PublicOption, kept_checkpoints
from steerkit.cli.audit.options import StoreOption, opened
from steerkit.errors import AuditError, SettingError
from steerkit.report import say

_Reports = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Folder of reports, the JSON that commands write [default: reports beside the store]."
    ),
]


def view_command(
    record: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="For --export: of a turn's record, or its number; or a report's JSON file."),
    ] = None,
    store: StoreOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="0 takes a free one.")] = 8020,
    checkpoint: CheckpointOption = None,
    key: PublicOption = None,
    reports: _Reports = None,
    decide: Annotated[bool, typer.Option("--decide", help="Let held calls be approved and refused there.")] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write that turn or report as one HTML file, and show nothing.")
    ] = None,
    approval_seconds: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="How long a held call waits, as the server has it.")
    ] = 3600.0,
) -> None:
    """Show the records in a browser on this machine: what was asked, called, judged, changed and decided."""
    from steerkit.viewer import Deciding, Kept, Person, view
    from steerkit.viewer import export as exported

    if export is not None and record is not None and Path(record).suffix in (".json", ".jsonl"):
        _export_report(Path(record), export)
        return
    if reports is not None and not reports.is_dir():
        raise SettingError(f"--reports: {reports} is no folder")
    kept = Kept(*kept_checkpoints(checkpoint, key))
    log = opened(store)
    log.close()
    if export is not None:
        if record is None:
            raise AuditError("--export: got no ID, expected that of a turn's record, or a report's JSON file")
        write_out(exported(log.path, record, kept=kept), export)
        say(f"ok: record {record} in {export}")
        return
    if record is not None:
        raise AuditError(f"{record}: got an ID without --export; its page is /r/{record}")
    person = Person(decide, getpass.getuser())
    deciding = Deciding(approval_seconds, lambda scope: person)

    def listening(url: str) -> None:
        say(f"{log.path} on {url} (Ctrl-C ends it)")

    view(log.path, port, kept=kept, reports=reports, deciding=deciding, listening=listening)


def _export_report(path: Path, export: Path) -> None:
    """Write a report as one file."""
    from steerkit.report import as_file, read_reports

    found = read_reports(path)
    if len(found) != 1:
        raise SettingError(f"{path}: got {len(found)} reports, expected one")
    write_out(as_file(found[0]), export)
    say(f"ok: {found[0].title} in {export}")
