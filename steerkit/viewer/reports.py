"""The reports in a folder: what commands such as `eval` and `features find` wrote there as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from steerkit.errors import SettingError
from steerkit.kept import Kept
from steerkit.report import FiledReport, ReplayReport, read_reports

_SUFFIXES: Final = (".json", ".jsonl")
_MOST_FILES: Final = 1_000


class Listed(NamedTuple):
    """A report in the folder."""

    name: str
    """In addresses: the file's name, with `:2` for the second line of several."""
    when: str
    """Time at which its file was written, in UTC."""
    report: FiledReport | None
    """None where it cannot be read."""
    error: str = ""


class Reports:
    """The reports in a folder, read again when a file changes.

    Args:
        folder: which need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: Kept[tuple[str, int, int], tuple[Listed, ...]] = Kept(_MOST_FILES)

    def all(self) -> list[Listed]:
        """Every report, the newest file first."""
        found = [(self._modified(path), path) for path in self._files()]
        return [one for _, path in sorted(found, reverse=True) for one in self._of(path)]

    def get(self, name: str) -> FiledReport:
        """The report of a name. Raises SettingError where there is none, or it cannot be read."""
        one = next((one for one in self.all() if one.name == name), None)
        if one is None:
            raise SettingError(f"{self.folder}: no report {name!r:.100}")
        if one.report is None:
            raise SettingError(one.error)
        return one.report

    def replays(self, record: str) -> list[tuple[str, ReplayReport]]:
        """Names and reports of a record's replays, the newest first."""
        listed = ((one.name, one.report) for one in self.all())
        return [(name, one) for name, one in listed if isinstance(one, ReplayReport) and one.record == record]

    def _files(self) -> Iterator[Path]:
        if not self.folder.is_dir():
            return
        files = sorted(path for path in self.folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
        yield from files[:_MOST_FILES]

    def _modified(self, path: Path) -> int:
        try:
            return path.stat().st_mtime_ns
        except OSError:
            return 0

    def _of(self, path: Path) -> tuple[Listed, ...]:
        try:
            known = path.stat()
        except OSError:
            return ()
        return self._read.get((path.name, known.st_mtime_ns, known.st_size), lambda: _listed(path, known.st_mtime))


def _listed(path: Path, modified: float) -> tuple[Listed, ...]:
    when = datetime.fromtimestamp(modified, UTC).strftime("%Y-%m-%d %H:%M:%S")
    try:
        found = read_reports(path)
    except SettingError as error:
        return (Listed(path.name, when, None, str(error)),)
    names = [path.name, *(f"{path.name}:{number}" for number in range(2, len(found) + 1))]
    return tuple(Listed(name, when, report) for name, report in zip(names, found, strict=True))
