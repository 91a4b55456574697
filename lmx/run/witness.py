"""A run's own account of what it does and reads, for whoever judges it from outside (`lmx verify resume`)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from lmx.train.observe import Moment, Observer, Phase
from lmx.types import Batch

WITNESS = "LMX_WITNESS"
"""Environment variable: the folder in which each process of a run writes PROCESS.jsonl."""


class Witness(Observer):
    """Writes a line of JSON for each phase, each checkpoint, and each batch, row by row, before it is trained on.

    {"begin": phase, "step": n}, {"end": phase, "step": n}, {"checkpoint": moment, "step": n}, {"start": n},
    {"read": n, "rows": {number of the row in the global batch: hash}}, {"rewind": n}, {"close": status}
    """

    def __init__(self, path: Path, rows: Sequence[int]) -> None:
        """`rows`: the numbers of this process's rows in a global batch."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._rows = rows
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def _write(self, **line: Any) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")

    @override
    def begin(self, phase: Phase, step: int) -> None:
        if phase != "input":
            self._write(begin=phase, step=step)

    @override
    def end(self, phase: Phase, step: int) -> None:
        if phase != "input":
            self._write(end=phase, step=step)

    @override
    def start(self, step: int, total: int) -> None:
        self._write(start=step)

    @override
    def batch(self, step: int, batch: Batch) -> Batch:
        self._write(read=step, rows=dict(zip(map(str, self._rows), row_hashes(batch), strict=True)))
        return batch

    @override
    def checkpoint(self, moment: Moment, step: int) -> None:
        self._write(checkpoint=moment, step=step)

    @override
    def rewind(self, step: int) -> None:
        self._write(rewind=step)

    @override
    def close(self, status: str) -> None:
        self._write(close=status)


def row_hashes(batch: Batch) -> list[str]:
    """A hash of each row: of all that the row brings to the step."""
    parts = [np.ascontiguousarray(part) for part in batch if part is not None]
    found = []
    for row in range(len(parts[0])):
        digest = hashlib.blake2b(digest_size=8)
        for part in parts:
            digest.update(part[row].tobytes())
        found.append(digest.hexdigest())
    return found
