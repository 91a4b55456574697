"""Dashboards beside a disk that is full for a while: training goes on, rows come again, the process ends."""

from __future__ import annotations

import subprocess
import sys

from tests.io.test_sinks import events
from tests.support import ROOT

PROGRAM = """
import logging, resource, sys, time
from pathlib import Path
from lmx.io.dashboards import Dashboards
from lmx.io.config import Logging
from tests.support import read_option

logging.basicConfig(stream=sys.stderr)
config = Logging.model_validate(read_option("logging", "default"))
boards = Dashboards(Path(sys.argv[1]), config, name="x", tree={"a": 1}, start=0)
row = lambda n: {f"tag{i}": 1.0 * n for i in range(12)}
rows = lambda first, last: [boards.put("scalars", n, row(n)) for n in range(first, last)]
rows(0, 20)
time.sleep(3)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))  # as a full disk
rows(20, 400)
time.sleep(3)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
rows(400, 420)
print(boards.close())
"""


def test_a_full_disk_neither_stops_the_rows_for_good_nor_keeps_the_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "None\n"
    assert done.stderr.count("File too large; rows are missing there, metrics.jsonl has them") == 1
    assert "Traceback" not in done.stderr
    newest = max((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime)
    (tmp_path / "newest").mkdir()
    newest.rename(tmp_path / "newest" / newest.name)
    assert max(event.step for event in events(tmp_path / "newest")) == 419
