"""The page of a review on terminals of several widths."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lmx.review.page import Cells, Section, subtitle
from lmx.review.page_rich import LONG, show

KEY = "model.position.ropes.rope.scaling.low_frequency_factor"
ORIGIN = "conf/model/_llama.yaml:9 -> conf/model/llama3_8b.yaml:14"


def lines(width: int, cells: Cells) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None, highlight=False)
    show(console, "heading", "below", [Section("part", [cells])])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [70, 80, 140, 300])
def test_keys_and_origins_stay_whole_at_any_width(width):
    cells = Cells(("key", "old", "new", "set at"), [[KEY, "4", "8", ORIGIN], ["x", "1", "2", ""]], below=3)
    shown = lines(width, cells)
    assert all(len(line) <= width for line in shown)
    assert any(line.startswith(KEY) for line in shown)
    assert any(ORIGIN in line for line in shown)
    row = next(line for line in shown if KEY in line)
    assert (ORIGIN in row) == (width == 140 or width == 300)


def test_what_is_too_wide_without_it_folds_beside_a_whole_first_column():
    cells = Cells(("key", "old", "new", "set at"), [[KEY, "a" * 40, "b" * 40, ORIGIN]], below=3)
    shown = lines(80, cells)
    assert all(len(line) <= 80 for line in shown)
    assert any(line.startswith(KEY) for line in shown)
    assert sum(line.count("a") for line in shown if "b" in line) >= 30


def test_brief_tables_say_how_much_they_leave_out():
    rows = [[f"key{n}", "1", "2"] for n in range(LONG + 3)]
    shown = lines(80, Cells(("key", "old", "new"), rows, brief=True))
    assert f"key{LONG - 1}" in "".join(shown)
    assert f"key{LONG}" not in "".join(shown)
    assert any("and 3 more" in line for line in shown)


@pytest.mark.parametrize(("n", "words"), [(1, "1 device ("), (1024, "1,024 devices (")])
def test_devices_are_counted(n, words):
    target = {"devices": n, "topology": "v5p:8x8x16", "mesh": {"data": n}, "links": {"data": "ICI"}}
    assert subtitle({"target": target}).startswith(words)
