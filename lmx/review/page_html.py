"""A review as one self-contained HTML page: the tables, the schedule's curve, the sharding drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lmx.review.page import Cells, Section, sections, subtitle, title

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:.6em 0}th,td{padding:.2em .8em .2em 0;text-align:left;vertical-align:top}
th{border-bottom:1px solid #999}td.right,th.right{text-align:right;font-variant-numeric:tabular-nums}
tr.red td{color:#b3261e}tr.yellow td{color:#8a6100}tr.green td{color:#1a6b3c}tr.dim td{color:#777}
h2{border-bottom:1px solid #ddd;margin-top:1.6em}svg{display:block;margin:.6em 0}.below{color:#666}
@media(prefers-color-scheme:dark){body{background:#15181c;color:#dfe3e8}}
"""
_WIDTH, _HEIGHT = 640, 180
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2")


def html(doc: Mapping[str, Any]) -> str:
    """The page."""
    parts = [f"<h1>{escape(title(doc))}</h1>", f'<p class="below">{escape(subtitle(doc))}</p>']
    for part in sections(doc):
        parts.append(_section(part))
        if part.title == "Optimizer" and doc.get("schedule"):
            parts.append(curve(doc["schedule"]))
        if part.title == "Sharding":
            parts.append(drawn_sharding(doc["sharding"], doc["target"]["mesh"]))
    head = f"<meta charset='utf-8'><title>{escape(title(doc))}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def html_of(heading: str, below: str, parts: Sequence[Section]) -> str:
    """A page of any sections."""
    body = "".join(
        [f"<h1>{escape(heading)}</h1>", f'<p class="below">{escape(below)}</p>', *map(_section, parts)]
    )
    head = f"<meta charset='utf-8'><title>{escape(heading)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>\n"


def _section(part: Section) -> str:
    return f"<h2>{escape(part.title)}</h2>" + "".join(
        _table(block) if isinstance(block, Cells) else f"<p>{escape(block)}</p>" for block in part.blocks
    )


def _table(cells: Cells) -> str:
    def row(texts: Sequence[str], tag: str, style: str = "") -> str:
        side = lambda n: ' class="right"' if n in cells.right else ""
        inner = "".join(f"<{tag}{side(n)}>{escape(text)}</{tag}>" for n, text in enumerate(texts))
        return f'<tr class="{style}">{inner}</tr>'

    body = "".join(row(texts, "td", cells.marks.get(n, "")) for n, texts in enumerate(cells.rows))
    table = f"<table>{row(cells.headers, 'th')}{body}</table>"
    if not cells.folded:
        return table
    return f"<details><summary>{len(cells.rows)} rows</summary>{table}</details>"


def curve(points: Sequence[tuple[int, float]]) -> str:
    """The learning rate over the steps, as SVG."""
    last = max(points[-1][0], 1)
    top = max(rate for _, rate in points) or 1.0
    place = lambda s, r: f"{40 + s / last * (_WIDTH - 60):.1f},{_HEIGHT - 25 - r / top * (_HEIGHT - 50):.1f}"
    line = " ".join(place(step, rate) for step, rate in points)
    axes = f'<path d="M40 15V{_HEIGHT - 25}H{_WIDTH - 20}" fill="none" stroke="#999"/>'
    words = (
        f'<text x="44" y="14" font-size="12" fill="#777">learning rate, at most {top:g}</text>'
        f'<text x="{_WIDTH - 20}" y="{_HEIGHT - 8}" font-size="12" fill="#777" text-anchor="end">'
        f"{last + 1:,} steps</text>"
    )
    drawn = f'<polyline points="{line}" fill="none" stroke="{_COLOURS[0]}" stroke-width="2"/>'
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img">{axes}{drawn}{words}</svg>'


def drawn_sharding(rows: Sequence[Mapping[str, Any]], mesh: Mapping[str, int]) -> str:
    """A bar for each parameter, as long as its bytes on a device, coloured by the mesh axes that split it."""
    names = [name for name, n in mesh.items() if n > 1]
    colour = {name: _COLOURS[(n + 1) % len(_COLOURS)] for n, name in enumerate(names)}
    most = max((row["bytes"] for row in rows), default=1) or 1
    height, parts = 20, []
    for n, row in enumerate(rows[:30]):
        used = [name for name in names if name in row["mesh"].replace("+", ", ").split(", ")]
        width, y = row["bytes"] / most * 360, n * height
        for i, name in enumerate(used or [""]):
            share = width / max(len(used), 1)
            fill = colour.get(name, _COLOURS[0])
            parts.append(
                f'<rect x="{250 + i * share:.1f}" y="{y + 3}" width="{max(share, 0.5):.1f}" height="13" fill="{fill}"/>'
            )
        parts.append(
            f'<text x="244" y="{y + 14}" font-size="12" fill="#777" text-anchor="end">{escape(row["name"])}</text>'
        )
    y = min(len(rows), 30) * height
    legend = [("whole", _COLOURS[0]), *((f"split over {name}", colour[name]) for name in names)]
    for i, (words, fill) in enumerate(legend):
        parts.append(f'<rect x="{10 + i * 160}" y="{y + 8}" width="12" height="12" fill="{fill}"/>')
        parts.append(
            f'<text x="{26 + i * 160}" y="{y + 18}" font-size="12" fill="#777">{escape(words)}</text>'
        )
    return f'<svg width="{_WIDTH}" height="{y + 26}" role="img">{"".join(parts)}</svg>'
