"""HTML pages from templates: each a single file that fetches nothing and runs no script, in light and dark."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from steerkit.report.out import json_text
from steerkit.report.tokens import drawn, shade, share, visible


def page(template: str, **values: object) -> str:
    """Render a template of `templates/` with the shared look.

    Args:
        template: file name; it extends `base.html`, or the `frame` that it is given.
        values: the template's variables. Their text needs no escapes: see `templates`.
    """
    return templates().get_template(template).render({"frame": "base.html", "base": None, **values})


@cache
def templates(*folders: Path) -> Environment:
    """Templates in which foreign text stays text: every value is escaped, and its hidden characters are drawn.

    A template inserts values into elements and quoted attributes alone, and marks nothing as `safe`.

    Args:
        folders: that have more of them; those of `report` come after theirs.
    """
    made = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent / "templates"]),
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"drawn": drawn, "json": json_text, "shade": shade, "share": share, "sentence": sentence}
    return made


def sentence(said: str) -> str:
    """Words as a sentence, with a capital letter and a full stop."""
    return f"{said[0].upper()}{said[1:]}."


def _finalized(value: object) -> object:
    return visible(value) if type(value) is str else value  # a macro's markup is a str of its own type
