"""A review as Markdown for a pull request."""

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
