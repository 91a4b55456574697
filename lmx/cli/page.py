"""Pages of text: sections of rows, plain, or with colour on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Section(NamedTuple):
    """A heading and its rows: name, then what is said of it."""

    title: str
    rows: Sequence[tuple[str, str]]


Line = list[tuple[str, str]]
"""Pieces of text, each with a style of rich's."""


def render(title: str, usage: str, sections: Sequence[Section], closing: Sequence[str] = ()) -> str:
    """The page as text, with colour where stdout is a terminal."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    lines = list(_lines(title, usage, sections, closing, width))
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        return _rich(lines)
    return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in lines)


def _lines(
    title: str, usage: str, sections: Sequence[Section], closing: Sequence[str], width: int
) -> Iterator[Line]:
    yield [(title, "bold")]
    yield []
    yield [("usage: ", "dim"), (usage, "")]
    for section in sections:
        yield []
        yield [(section.title, "bold cyan")]
        column = min(max((len(name) for name, _ in section.rows), default=0), 30)
        for name, text in section.rows:
            body = textwrap.wrap(text, max(width - column - 4, 30))
            first = body.pop(0) if body and len(name) <= column else ""
            yield [(f"  {name:<{column}}  ", "green" if text else "bold"), (first, "")]
            for part in body:
                yield [(" " * (column + 4), ""), (part, "")]
    if closing:
        yield []
        for line in closing:
            yield [(line, "dim")]


def _rich(lines: Sequence[Line]) -> str:
    import io

    from rich.console import Console
    from rich.text import Text

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=1000, highlight=False)
    for line in lines:
        console.print(Text.assemble(*line), soft_wrap=True)
    return stream.getvalue()
