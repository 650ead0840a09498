"""Times as people write them: a date, a time, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Final

from steerkit.errors import AuditError

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
FORMS: Final = "a date such as 2026-01-31, a time (2026-01-31T12:00, in UTC), or 30m, 12h, 7d, 2w, yesterday"


def moment(option: str, text: str) -> datetime:
    """A time that a user gave as an option or a field, with its zone; without one it is UTC. Raises AuditError."""
    now, said = datetime.now(UTC), text.strip().lower()
    days = {"today": 0, "yesterday": 1}
    try:
        if said == "now":
            return now
        if said in days:
            return datetime.combine(now.date() - timedelta(days=days[said]), time(), UTC)
        if ago := re.fullmatch(r"([0-9]{1,9}) ?([smhdw])(?: ago)?", said):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise AuditError(f"{option}: got {text!r}, expected {FORMS}") from None
