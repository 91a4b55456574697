"""Where a run's numbers and words go: metrics.jsonl, log.txt, TensorBoard, Weights & Biases, the terminal.

Only metrics.jsonl and log.txt are written by the training thread, a line each, given to the system at once.
The rest goes through a queue to a thread of its own, so that no slow disk or network holds a step up.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmx.config.errors import RequestError
from lmx.io.config import Logging
from lmx.io.files import to_json, to_plain
from lmx.io.progress import Progress, one_line

_CLOSING_S = 60.0
"""How long the end of a run waits for a dashboard."""


def check(config: Logging) -> None:
    """RequestError when Weights & Biases is asked for and not installed."""
    if config.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise RequestError(
            "logging.wandb: Weights & Biases is not installed; pip install 'lmx[wandb]', or logging=default"
        )


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
        said: Sequence[str] = (),
    ) -> None:
        """`start`: steps done before; `total`: steps at the end; `tree`: configuration, for dashboards.

        `said`: warnings from before, shown already.
        """
        primary = process == 0
        self.progress = Progress(config.progress if primary else "none", start=start, total=total)
        self._metrics = LineFile(folder / "metrics.jsonl", self._show) if primary else None
        self._log = LineFile(folder / log_name(process), self._show)
        self._handler = _Spoken(self)
        _wake_loggers()
        logger = logging.getLogger("lmx")
        self._propagated, logger.propagate = logger.propagate, False  # nothing is said twice
        logger.addHandler(self._handler)
        self._boards = Dashboards(folder, config, name=name, tree=tree, start=start) if primary else None
        for text in said:
            self._note(f"WARNING: {text}")

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
        self._note(f"WARNING: {text}")
        self._show(f"WARNING: {text}")

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
            self._warn(f"WARNING: {self.path} cannot be written: {problem}; its lines wait in memory")
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


class _Overheard(logging.Handler):
    """Shows what is logged, and keeps it."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage())
        print(f"WARNING: {record.getMessage()}", file=sys.stderr)


@contextmanager
def overheard() -> Iterator[list[str]]:
    """What the rooms below warn of inside, before there is a run directory for it; shown at once."""
    said: list[str] = []
    handler, logger = _Overheard(said), logging.getLogger("lmx")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


class _Spoken(logging.Handler):
    """Passes what the rooms below log on to the terminal and log.txt."""

    def __init__(self, sinks: Sinks) -> None:
        super().__init__(logging.WARNING)
        self._sinks = sinks

    def emit(self, record: logging.LogRecord) -> None:
        self._sinks.warn(record.getMessage())


def flatten(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(tag, number) of every number in a row: `norms` of a stack of layers become one tag a layer."""
    for key, value in row.items():
        tag = f"{prefix}/{key}" if prefix else key
        if isinstance(value, dict):
            yield from flatten(value, tag)
        elif isinstance(value, list):
            yield from flatten({str(i): inner for i, inner in enumerate(value)}, tag)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield tag, value


class Dashboards:
    """TensorBoard and Weights & Biases, fed by a thread that also imports them: nothing waits for either."""

    def __init__(self, folder: Path, config: Logging, *, name: str, tree: dict[str, Any], start: int) -> None:
        self._queue: queue.SimpleQueue[tuple[str, int, Any] | None] = queue.SimpleQueue()
        self._failed: str | None = None
        self._thread: threading.Thread | None = None
        if config.tensorboard or config.wandb is not None:
            arguments = (folder, config, name, tree, start)
            self._thread = threading.Thread(target=self._run, args=arguments, name="dashboards", daemon=True)
            self._thread.start()

    def put(self, kind: str, step: int, value: Any) -> None:
        """Hands over a row (`scalars`) or a (tag, text) pair (`text`)."""
        if self._thread is not None and self._failed is None:
            self._queue.put((kind, step, value))

    def close(self) -> str | None:
        """Waits until all is written, a while at most; says so where it is not."""
        if self._thread is None:
            return None
        self._queue.put(None)
        self._thread.join(timeout=_CLOSING_S)
        if self._thread.is_alive():
            return f"a dashboard did not take its rows within {_CLOSING_S:g} s; metrics.jsonl has them all"
        return None

    def _run(self, *arguments: Any) -> None:
        try:
            boards = _open(*arguments)
            while (item := self._queue.get()) is not None:
                kind, step, value = item
                for board in boards:
                    if kind == "text":
                        board.text(step, *value)
                    elif kind == "rewind":
                        board.rewind(step)
                    else:
                        board.scalars(step, dict(flatten(to_plain(value))))
            for board in boards:
                board.close()
        except Exception as error:  # a dashboard must never end the training
            self._failed = f"{type(error).__name__}: {error}"
            logging.getLogger("lmx").warning("a dashboard stopped: %s; metrics.jsonl goes on", self._failed)


class _TensorBoard:
    def __init__(self, folder: Path, tree: dict[str, Any], start: int) -> None:
        from tensorboardX import SummaryWriter

        self._open = lambda purge: SummaryWriter(str(folder / "tensorboard"), flush_secs=10, purge_step=purge)
        # Events after `start` belong to a past that a resumed run went back on.
        self._writer = self._open(start + 1 if start else None)
        if not start:
            import yaml

            self.text(0, "configuration", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))

    def scalars(self, step: int, numbers: dict[str, float]) -> None:
        for tag, number in numbers.items():
            if not math.isfinite(number):  # nothing to draw, and tensorboardX prints a warning
                continue
            self._writer.add_scalar(tag, number, step)

    def text(self, step: int, tag: str, text: str) -> None:
        indented = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown: as it stands
        self._writer.add_text(tag, indented, step)

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._writer = self._open(step + 1)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path, config: Logging, name: str, tree: dict[str, Any]) -> None:
        import wandb  # type: ignore[import-not-found]

        knobs = config.wandb
        assert knobs is not None
        self._wandb = wandb
        self._run = wandb.init(
            project=knobs.project,
            entity=knobs.entity,
            mode=knobs.mode,
            id=identity(folder),
            resume="allow",
            name=name,
            dir=str(folder),
            config=tree,
        )

    def scalars(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log({tag: n for tag, n in numbers.items() if math.isfinite(n)}, step=step)

    def text(self, step: int, tag: str, text: str) -> None:
        self._run.log({tag: self._wandb.Html(f"<pre>{_escape(text)}</pre>")}, step=step)

    def rewind(self, step: int) -> None:
        pass  # its steps only grow: rows appear again where the run is past its old end

    def close(self) -> None:
        self._run.finish()


def identity(folder: Path) -> str:
    """What a run is known by, also when resumed: its folder and the one around it, as sweeps number theirs."""
    place = folder.resolve()
    return re.sub(r"[^A-Za-z0-9_-]", "-", f"{place.parent.name}-{place.name}")[-64:]


def _escape(text: str) -> str:
    import html

    return html.escape(text)


def _open(folder: Path, config: Logging, name: str, tree: dict[str, Any], start: int) -> list[Any]:
    boards: list[Any] = []
    if config.tensorboard:
        boards.append(_TensorBoard(folder, tree, start))
    if config.wandb is not None:
        boards.append(_Wandb(folder, config, name, tree))
    return boards
