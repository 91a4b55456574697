"""Requests that `lmx` refuses, answered by one process: importing everything takes longer than refusing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support import ROOT

PROGRAM = """
import contextlib, io, json, sys
from lmx.cli.main import run

found = []
for words in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        code = run(words)
    found.append([code, said.getvalue()])
print(json.dumps(found))
"""


class Refusal(NamedTuple):
    """The exit code, and what was said on stderr."""

    code: int
    said: str


def refusals(
    requests: Sequence[Sequence[str]], *, cwd: Path, environment: Mapping[str, str] | None = None
) -> list[Refusal]:
    """The answer to each `lmx *words`, in order."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([list(words) for words in requests]),
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [Refusal(*answer) for answer in json.loads(done.stdout.splitlines()[-1])]
