"""A review as Markdown for a pull request, and as a page in colour for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmx.config.text import counted
from lmx.review.page import Cells, Section, sections, subtitle, title


def markdown(doc: Mapping[str, Any]) -> str:
    """GitHub's Markdown; long tables collapsed."""
    return markdown_of(title(doc), subtitle(doc), sections(doc))


def markdown_of(heading: str, below: str, parts: Sequence[Section]) -> str:
    """The same of any sections."""
    lines = [f"# {_escaped(heading)}", "", _escaped(below)]
    for part in parts:
        lines += ["", f"## {part.title}"]
        for block in part.blocks:
            lines += ["", *(_markdown_table(block) if isinstance(block, Cells) else [_escaped(block)])]
    return "\n".join(lines) + "\n"


def _markdown_table(cells: Cells) -> list[str]:
    rule = ["---:" if n in cells.right else "---" for n in range(len(cells.headers))]
    line = lambda row: "| " + " | ".join(_cell(text) for text in row) + " |"
    table = [line(cells.headers), "|" + "|".join(rule) + "|", *(line(row) for row in cells.rows)]
    if not cells.folded:
        return table
    said = f"<details><summary>{counted(len(cells.rows), 'row')}</summary>"
    return [said, "", *table, "", "</details>"]


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*")


def _cell(text: str) -> str:
    if "*" in text and "`" not in text:
        return f"`{text}`".replace("|", "\\|")
    return _escaped(text).replace("|", "\\|").replace("\n", " ")


def print_rich(doc: Mapping[str, Any]) -> None:
    """In colour, on stdout."""
    rich_of(title(doc), subtitle(doc), sections(doc))


def rich_of(heading: str, below: str, parts: Sequence[Section]) -> None:
    """The same of any sections."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(heading, style="bold"))
    console.print(Text(below, style="dim"))
    for part in parts:
        console.print()
        console.rule(Text(part.title, style="bold cyan"), align="left")
        for block in part.blocks:
            if isinstance(block, str):
                console.print(Text(block))
                continue
            table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
            for n, header in enumerate(block.headers):
                table.add_column(header, justify="right" if n in block.right else "left", overflow="fold")
            for n, row in enumerate(block.rows):
                table.add_row(*(Text(text) for text in row), style=block.marks.get(n, ""))
            console.print(table)
