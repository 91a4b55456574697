"""A review as a page in colour, for a terminal of any width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmx.review.page import LONG, Cells, Section, sections, subtitle, title

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

GAP = 2
"""Blanks between columns."""
LEAST = 8
"""Columns are not made narrower than this, where a terminal is too narrow."""
FOLDED = 32
"""Columns that are wider may be folded before one goes below the rows."""


def print_rich(doc: Mapping[str, Any]) -> None:
    """The page of a review, on stdout."""
    rich_of(title(doc), subtitle(doc), sections(doc))


def rich_of(heading: str, below: str, parts: Sequence[Section]) -> None:
    """The same of any sections."""
    from rich.console import Console

    show(Console(highlight=False), heading, below, parts)


def show(console: Console, heading: str, below: str, parts: Sequence[Section]) -> None:
    """The same, on a console."""
    from rich.text import Text

    console.print(Text(heading, style="bold"))
    console.print(Text(below, style="dim"))
    for part in parts:
        console.print()
        console.rule(Text(part.title, style="bold cyan"), align="left")
        for n, block in enumerate(part.blocks):
            if n and isinstance(part.blocks[n - 1], Cells):
                console.print()
            if isinstance(block, str):
                console.print(Text(block))
            else:
                _print_cells(console, block)


def _print_cells(console: Console, cells: Cells) -> None:
    from rich.text import Text

    left = len(cells.rows) - LONG if cells.brief else 0
    if left > 0:
        cells = cells._replace(rows=cells.rows[:LONG])
    natural = [max(map(len, column)) for column in zip(cells.headers, *cells.rows, strict=True)]
    whole = [n if i in (0, cells.below) else min(n, FOLDED) for i, n in enumerate(natural)]
    if cells.below is None or sum(whole) + GAP * (len(whole) - 1) <= console.width:
        _print_whole(console, cells, natural)
    else:
        for line in _stacked(cells, cells.below, natural, console.width):
            console.print(line)
    if left > 0:
        console.print(Text(f"... and {left} more; output=markdown has all of them", style="dim"))


def _print_whole(console: Console, cells: Cells, natural: Sequence[int]) -> None:
    table = _grid(cells, range(len(natural)), _fitted(natural, console.width), header=True)
    for n, row in enumerate(cells.rows):
        _add(table, row, cells.marks.get(n, ""))
    console.print(table)


def _stacked(cells: Cells, below: int, natural: Sequence[int], width: int) -> Iterator[Any]:
    """A header, then each row without the column `below`, and that column in a line of its own under it."""
    from rich.padding import Padding
    from rich.text import Text

    kept = [n for n in range(len(natural)) if n != below]
    widths = _fitted([natural[n] for n in kept], width)
    head = _grid(cells, kept, widths, header=True)
    for n, row in enumerate(cells.rows):
        table = head if n == 0 else _grid(cells, kept, widths, header=False)
        _add(table, [row[k] for k in kept], cells.marks.get(n, ""))
        yield table
        if row[below]:
            yield Padding(Text(row[below], style="dim"), (0, 0, 0, 4))


def _fitted(natural: Sequence[int], width: int) -> list[int]:
    """Widths that fit side by side: the widest are made narrower, the first last."""
    widths = list(natural)
    over = sum(widths) + GAP * (len(widths) - 1) - width
    while over > 0:
        wide = [n for n in range(1, len(widths)) if widths[n] > LEAST] or [0]
        n = max(wide, key=lambda i: widths[i])
        if widths[n] <= LEAST:
            break
        widths[n] -= 1
        over -= 1
    return widths


def _grid(cells: Cells, columns: Sequence[int], widths: Sequence[int], *, header: bool) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", show_header=header, pad_edge=False, padding=(0, GAP, 0, 0))
    for place, n in enumerate(columns):
        side = "right" if n in cells.right else "left"
        table.add_column(cells.headers[n], justify=side, overflow="fold", width=widths[place])
    return table


def _add(table: Table, row: Sequence[str], style: str) -> None:
    from rich.text import Text

    table.add_row(*(Text(text) for text in row), style=style)
