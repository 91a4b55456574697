"""Progress: figures as people read them; lines in a file, a bar on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from lmx.io.progress import Progress, duration, one_line, readable


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7.5, "7.5"),
        (999, "999"),
        (1234, "1.23k"),
        (45_600, "45.6k"),
        (1.82e6, "1.82M"),
        (3e9, "3B"),
        (2e12, "2T"),
    ],
)
def test_numbers_have_three_digits_and_a_unit(number, text):
    assert readable(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (12.34, "12.3s"), (200, "3m20s"), (3720, "1h02m"), (97_200, "1d03h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_row_in_a_line_leaves_out_what_is_not_known():
    row = {
        "loss": 2.5,
        "eval/loss": None,
        "mfu": None,
        "tokens_per_second": 1500.0,
        "skipped": 0,
        "grad_norm": "NaN",
    }
    assert one_line(row) == "loss 2.5000  1.5k tokens/s"
    assert one_line({"loss": float("nan"), "mfu": 0.314, "skipped": 2}) == "loss nan  MFU 31.4%  2 skipped"


def test_lines_where_there_is_no_terminal(capsys):
    progress = Progress("auto", start=0, total=40)
    for step in range(1, 41):
        progress.advance(step)
        if step % 20 == 0:
            progress.row(step, {"loss": 1.5})
    progress.close()
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"step 20/40  loss 1.5000  ETA \d+\.\ds", first)
    assert last == "step 40/40  loss 1.5000"


BAR = """
import sys, time
from lmx.io.progress import Progress
progress = Progress("auto", start=0, total=40)
for step in range(1, 41):
    progress.advance(step)
    if step % 10 == 0:
        row = {"loss": 2.0 + 1 / step, "tokens_per_second": 12345.0, "mfu": 0.31}
        progress.row(step, row | ({"eval/loss": 2.75} if step == 20 else {}))
        time.sleep(0.6)
progress.show("WARNING: watch")
print("result")
progress.close()
"""


def test_a_bar_on_a_terminal_of_eighty_columns_and_a_clean_stdout():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen(
        [sys.executable, "-c", BAR], stderr=theirs, stdout=subprocess.PIPE, env=environment, text=True
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:
            break
        if not block:
            break
        shown += block
    os.close(ours)
    assert process.communicate(timeout=20)[0] == "result\n"
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "WARNING: watch" in text
    assert "step 20  loss 2.0500  eval 2.7500" in text
    assert re.search(r"40/40 .*loss 2\.0250  12\.3k tokens/s  MFU 31\.0%.*ETA", text)
