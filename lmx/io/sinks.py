"""Where a run's numbers and words go: metrics.jsonl, log.txt, TensorBoard, Weights & Biases, the terminal.

Only metrics.jsonl and log.txt are written by the training thread, a line each, given to the system at once.
The rest goes through a queue to a thread of its own, so that no slow disk or network holds a step up.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmx.io.config import Logging
from lmx.io.dashboards import Dashboards
from lmx.io.files import to_json
from lmx.io.progress import Progress, one_line


def log_name(process: int) -> str:
    """The file of the run directory that a process keeps its log in."""
    return "log.txt" if process == 0 else f"log.{process}.txt"


class Sinks:
    """All sinks of one run. Of several processes the first writes; the others show warnings and keep a log."""

    def __init__(
        self,
        folder: Path,
        config: Logging,
        *,
        name: str,
        tree: dict[str, Any],
        start: int,
        total: int,
        process: int = 0,
    ) -> None:
        """`start`: steps done before; `total`: steps at the end; `tree`: configuration, for dashboards."""
        primary = process == 0
        self.progress = Progress(config.progress if primary else "none", start=start, total=total)
        told = lambda text: self._show(f"WARNING: {text}")
        self._metrics = LineFile(folder / "metrics.jsonl", told) if primary else None
        self._log = LineFile(folder / log_name(process), told)
        self._handler = _Spoken(self.warn)
        _wake_loggers()
        logger = logging.getLogger("lmx")
        self._propagated, logger.propagate = logger.propagate, False  # nothing is said twice
        logger.addHandler(self._handler)
        self._boards = Dashboards(folder, config, name=name, tree=tree, start=start) if primary else None

    def scalars(self, step: int, row: dict[str, Any]) -> None:
        """A row of metrics.jsonl, log.txt and dashboards; in JSON, numbers that are not finite become text."""
        if self._metrics is not None:
            self._metrics.write(to_json({"step": step, **row}))
        self._note(f"step {step}  {one_line(row)}")
        if self._boards is not None:
            self._boards.put("scalars", step, row)

    def text(self, step: int, tag: str, text: str) -> None:
        """A sample of text."""
        self._note(f"step {step} {tag}: {text!r}")
        if self._boards is not None:
            self._boards.put("text", step, (tag, text))

    def say(self, text: str) -> None:
        """Words for the terminal (stderr) and log.txt."""
        self._note(text)
        self.progress.say(text)

    def warn(self, text: str) -> None:
        """Words that must not be missed: shown whatever `logging.progress` is."""
        self.was_warned(text)
        self._show(f"WARNING: {text}")

    def was_warned(self, text: str) -> None:
        """A warning that was shown before there was a run directory."""
        self._note(f"WARNING: {text}")

    def rewind(self, step: int) -> None:
        """metrics.jsonl was replaced by one that ends at `step`, and the run goes on from there."""
        if self._metrics is not None:
            self._metrics.reopen()
        if self._boards is not None:
            self._boards.put("rewind", step, None)

    def close(self) -> None:
        """Writes out all that is queued."""
        if self._boards is not None and (problem := self._boards.close()):
            self.warn(problem)
        logger = logging.getLogger("lmx")
        logger.removeHandler(self._handler)
        logger.propagate = self._propagated
        self.progress.close()
        for file in (self._metrics, self._log):
            if file is not None:
                file.close()

    def _show(self, text: str) -> None:
        self.progress.show(text)

    def _note(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        for line in text.splitlines() or [""]:
            self._log.write(f"{stamp} {line}")


class LineFile:
    """A file that grows by whole lines. What a full disk refuses waits in memory for the next line."""

    def __init__(self, path: Path, warn: Any) -> None:
        self.path = path
        self._warn = warn
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._waiting = b"" if _ends_whole(path) else b"\n"
        self._failing = False
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        """Appends one line; the system has it when this returns, unless the disk refuses it."""
        with self._lock:
            self._waiting += line.encode("utf-8", errors="replace") + b"\n"
            problem = self._flush()
            recovered = self._failing and problem is None
            first = problem is not None and not self._failing
            self._failing = problem is not None
        if first:
            self._warn(f"{self.path} cannot be written: {problem}; its lines wait in memory")
        elif recovered:
            self._warn(f"{self.path} is written again; no line is lost")

    def _flush(self) -> str | None:
        try:
            while self._waiting:
                # Where the disk takes a part of a line only, the rest follows it later.
                self._waiting = self._waiting[os.write(self._handle, self._waiting) :]
        except OSError as error:
            return error.strerror or str(error)
        return None

    def reopen(self) -> None:
        """Goes on in the file that has this name now."""
        with self._lock:
            os.close(self._handle)
            self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def close(self) -> None:
        """Tries once more to write what waits."""
        with self._lock:
            if self._flush() is not None:
                lost = self._waiting.count(b"\n")
                print(f"WARNING: {self.path}: {lost} lines are lost, the disk refused them", file=sys.stderr)
            os.close(self._handle)


def _ends_whole(path: Path) -> bool:
    """Whether no killed process left a line unfinished at the end of a file."""
    with open(path, "rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - 1, 0))
        return size == 0 or stream.read(1) == b"\n"


def _wake_loggers() -> None:
    """Undoes what a configuration of logging (a library's, in mid-process) does to loggers that existed before it."""
    logging.getLogger("lmx").setLevel(logging.INFO)
    for name in [n for n in logging.root.manager.loggerDict if n == "lmx" or n.startswith("lmx.")]:
        logging.getLogger(name).disabled = False


class _Spoken(logging.Handler):
    """Passes what the rooms below log on to `warn`."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        self._warn(record.getMessage())


@contextmanager
def overheard() -> Iterator[list[str]]:
    """What the rooms below warn of inside, before there is a run directory for it; shown at once."""
    said: list[str] = []

    def warn(text: str) -> None:
        said.append(text)
        print(f"WARNING: {text}", file=sys.stderr)

    handler, logger = _Spoken(warn), logging.getLogger("lmx")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
