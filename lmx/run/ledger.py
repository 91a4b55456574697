"""Writes a run's ledger and accounts for its time; see `lmx.io.ledger` for what it holds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from typing_extensions import override

from lmx.data.windows import Window
from lmx.io.files import to_json
from lmx.io.ledger import KINDS, MODULUS, Goodput, attempts_of, file_name, goodput_of, read_ledger
from lmx.io.sinks import LineFile
from lmx.run.witness import row_hashes
from lmx.train.observe import Moment, Observer, Phase
from lmx.types import Batch

_AROUND = ("replay", "evaluate", "sample", "save")
"""Phases in which no step is computed."""


class Ledger(Observer):
    """Appends to the ledger every `every` steps and before each checkpoint; keeps account of the attempt's time."""

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any],
        rows: Sequence[int],
        *,
        every: int,
        began: float,
        process: int,
        warn: Callable[[str], None],
    ) -> None:
        """`facts`: what the attempt's first line says of it; `rows`: the numbers of this process's rows in a global
        batch; `began`: when the attempt did, seconds since the epoch.
        """
        self._path = folder / file_name(process)
        self._facts, self._rows, self._every, self._warn = facts, rows, every, warn
        self._began, self._clock = began, time.perf_counter() - (time.time() - began)
        self._file: LineFile | None = None
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._since = 0.0
        self._computing: Any = None
        self._hashes: dict[int, int] = {}
        self._first, self._step, self._row, self._total = 1, 0, {}, 0
        self._left_out: tuple[Window, ...] = ()
        self._ended: float | None = None

    # ---- time

    @override
    def begin(self, phase: Phase, step: int) -> None:
        if phase == "save":
            self._flush()  # what a checkpoint holds is told of before it is there
        self._since = time.perf_counter()

    @override
    def end(self, phase: Phase, step: int) -> None:
        took = time.perf_counter() - self._since
        if phase in _AROUND:
            self._seconds[phase] += took
        elif phase == "finish":
            self._seconds["save"] += took
        elif phase == "compile" and self._computing is not None:  # the first is counted with the first step
            self._seconds["start"] += took
        elif phase == "input" and self._computing is not None and self._computing.is_ready():
            self._seconds["input"] += took  # nothing was left for the devices to do

    @override
    def dispatched(self, step: int, metrics: dict[str, Any]) -> None:
        if self._computing is None:  # all until here was set-up, the compilation of the step too
            self._seconds["start"] = time.perf_counter() - self._clock - sum(self._seconds.values())
        self._computing = jax.tree.leaves(metrics)[0]

    def seconds(self) -> dict[str, float]:
        """Where the time of this attempt went so far."""
        spent = (self._ended or time.perf_counter()) - self._clock
        known = {kind: value for kind, value in self._seconds.items() if kind != "training"}
        rest = spent - sum(known.values())
        if self._computing is None:
            return {**known, "start": known["start"] + rest, "training": 0.0}
        return {**known, "training": rest}

    def goodput(self) -> Goodput | None:
        """Of the whole run, over restarts, until now."""
        if self._file is None:
            return None
        self._flush()
        now = {
            "event": "end",
            "time": time.time(),
            "step": self._step,
            "status": None,
            "seconds": self.seconds(),
        }
        return goodput_of(attempts_of([*read_ledger(self._path).objects, now]))

    # ---- what is seen

    @override
    def start(self, step: int, total: int) -> None:
        self._first, self._step, self._total = step + 1, step, total
        self._file = LineFile(self._path, self._warn)
        self._write("start", self._began, step=step, total=total, **self._facts, **self._windows())

    def leave_out(self, windows: Sequence[Window]) -> None:
        """Batches that are left out from here on."""
        self._left_out = tuple(windows)

    def _windows(self) -> dict[str, Any]:
        return {"left_out": self._left_out} if self._left_out else {}

    def went_back(self, told: dict[str, Any], windows: Sequence[Window]) -> None:
        """The run goes back, which is the start of another attempt in the same process."""
        self._flush()
        seconds = {kind: round(value, 3) for kind, value in self.seconds().items()}
        self._write("end", time.time(), step=self._step, status="rewound", seconds=seconds)
        self.leave_out(windows)
        self._facts["attempt"] += 1
        self._seconds, self._computing = dict.fromkeys(KINDS, 0.0), None
        self._began, self._clock = time.time(), time.perf_counter()
        step = told["to"]
        self._hashes.clear()
        self._first, self._step, self._row = step + 1, step, {}
        facts = {**self._facts, **self._windows(), "rewound": told}
        self._write("start", self._began, step=step, total=self._total, **facts)

    @override
    def batch(self, step: int, batch: Batch) -> Batch:
        total = 0
        for row, found in zip(self._rows, row_hashes(batch), strict=True):
            told = hashlib.blake2b(f"{step} {row} {found}".encode(), digest_size=8).digest()
            total += int.from_bytes(told, "big")
        self._hashes[step] = total % MODULUS
        return batch

    @override
    def report(self, step: int, row: dict[str, Any]) -> None:
        self._step, self._row = step, row
        if "spike" in row:
            names = ("loss", "grad_norm", "loss_deviations", "grad_norm_deviations")
            self._write("spike", time.time(), step=step, **{n: row[n] for n in names}, **row["spike"])
        if step % self._every == 0:
            self._flush()

    @override
    def checkpoint(self, moment: Moment, step: int) -> None:
        if moment != "written" and self._file is not None:
            self._write(moment, time.time(), step=step)

    def note(self, event: str, step: int, facts: Mapping[str, Any]) -> None:
        """A line of its own on something that happened at a step."""
        self._write(event, time.time(), step=step, **facts)

    def _flush(self) -> None:
        """A line on the steps that none tells of yet."""
        if self._step < self._first:
            return
        data = sum(self._hashes.pop(n) for n in range(self._first, self._step + 1)) % MODULUS
        seconds = {kind: round(value, 3) for kind, value in self.seconds().items()}
        self._write(
            "steps",
            time.time(),
            first=self._first,
            last=self._step,
            data=f"{data:016x}",
            loss=self._row.get("loss"),
            grad_norm=self._row.get("grad_norm"),
            seconds=seconds,
            **({"slowest": self._row["slowest"]} if "slowest" in self._row else {}),
        )
        self._first = self._step + 1

    def _write(self, event: str, when: float, **facts: Any) -> None:
        assert self._file is not None
        self._file.write(to_json({"event": event, "time": round(when, 3), **facts}))

    @override
    def close(self, status: str) -> None:
        if self._file is None:
            return
        self._flush()
        self._ended = time.perf_counter()
        seconds = {kind: round(value, 3) for kind, value in self.seconds().items()}
        self._write("end", time.time(), step=self._step, status=status, seconds=seconds)
        self._file.close()
        self._file = None
