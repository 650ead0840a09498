"""The frame of every HTML page: one file without scripts that needs no network, in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from steerkit.report.tokens import drawn, share, visible

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #ffffff; --ink: #1d1c1a; --soft: #6d6a64; --line: #e4e0d9;
  --hot: 255 137 20; --cold: 62 124 196; }
@media (prefers-color-scheme: dark) { :root { --paper: #161615; --card: #1f1f1d; --ink: #ecebe7; --soft: #9b978f;
  --line: #33322f; --hot: 255 132 20; --cold: 96 158 232; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 3rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; letter-spacing: -0.01em; }
h2 { margin: 2.4rem 0 0.3rem; font-size: 1.05rem; }
p { margin: 0.4rem 0; }
.soft { color: var(--soft); font-size: 0.9rem; }
.lead { font-size: 1.1rem; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.2rem, 1fr)); gap: 0.6rem; margin: 0.8rem 0 0;
  padding: 0; }
.tiles div { padding: 0.55rem 0.75rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.tiles dt { color: var(--soft); font-size: 0.8rem; }
.tiles dd { margin: 0; font-size: 1.1rem; font-variant-numeric: tabular-nums; }
table { width: 100%; margin-top: 0.6rem; border-collapse: collapse; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
td, th { padding: 0.5rem 0.75rem; border-top: 1px solid var(--line); text-align: left; vertical-align: top;
  font-weight: normal; }
tr:first-child > * { border-top: 0; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.tokens { font: 0.88rem/1.75 ui-monospace, "SF Mono", Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.tokens span { unicode-bidi: isolate; border-radius: 3px; background: rgb(var(--hot) / calc(0.75 * var(--share, 0))); }
.tokens .strongest { outline: 2px solid rgb(var(--hot)); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 0 1.5rem; }
.bar { width: 45%; }
.bar span { display: block; height: 0.8rem; margin-top: 0.35rem; border-radius: 3px; width: calc(100% * var(--share));
  background: rgb(var(--hot) / 0.85); }
.cold .bar span { background: rgb(var(--cold) / 0.85); }
.chart { display: block; width: 100%; height: auto; margin-top: 0.6rem; padding: 0.5rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
.chart text { fill: var(--ink); font: 12.5px system-ui, -apple-system, "Segoe UI", sans-serif;
  font-variant-numeric: tabular-nums; }
.chart .tick { fill: var(--soft); font-size: 11.5px; }
.chart .grid { stroke: var(--line); }
.chart .hot { fill: rgb(var(--hot) / 0.85); }
.chart .cold { fill: rgb(var(--cold) / 0.7); }
.chart .whisker { fill: none; stroke: var(--ink); stroke-opacity: 0.75; stroke-width: 1.3; }
.chart .a { --tone: rgb(var(--hot)); }
.chart .b { --tone: rgb(var(--cold)); }
.chart .c { --tone: rgb(118 126 136); }
.chart .line { fill: none; stroke: var(--tone); stroke-width: 2; }
.chart .band { fill: var(--tone); fill-opacity: 0.15; }
.chart .dot { fill: var(--tone); }
.verdict { padding: 0.6rem 0.9rem; background: var(--card); border: 1px solid var(--line);
  border-left: 4px solid rgb(var(--cold)); border-radius: 6px; }
@media print { body { padding: 0; } * { print-color-adjust: exact; } }
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, body: str, style: str = "") -> str:
    """A whole HTML page.

    Args:
        title: plain text.
        body: markup, in which every foreign text went through `text`, `shaded` or `tiles`.
        style: CSS rules that this page alone needs, without foreign text.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def text(plain: str) -> str:
    """Plain text as markup, also inside a quoted attribute; nothing in it is a tag, and nothing is unseen."""
    return escape(visible(plain))


def shaded(tokens: Sequence[str], values: Sequence[float], high: float, strongest: int | None = None) -> str:
    """Tokens as markup, each shaded by its share of `high` and with its value as title where that is above 0."""
    spans = []
    for number, (token, value) in enumerate(zip(tokens, values, strict=True)):
        marks = f' title="{value:.4g}" style="--share:{share(value, high):.2f}"' if value > 0 else ""
        chosen = ' class="strongest"' if number == strongest else ""
        spans.append(f"<span{chosen}{marks}>{escape(drawn(token))}</span>")
    return f'<div class="tokens">{"<wbr>".join(spans)}</div>'


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Names with a value each, side by side, as markup."""
    parts = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in values)
    return f'<dl class="tiles">{parts}</dl>'
