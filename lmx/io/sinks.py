"""Where a run's numbers and words go: metrics.jsonl, log.txt, TensorBoard, Weights & Biases, the terminal.

Only metrics.jsonl and log.txt are written by the training thread (a line each, flushed); the rest goes through a
queue to a thread of its own, so that no slow disk or network holds a step up.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lmx.config.errors import RequestError
from lmx.io.config import Logging
from lmx.io.progress import Progress
from lmx.io.run_dir import plain_json


def check(config: Logging) -> None:
    """RequestError when Weights & Biases is asked for and not installed."""
    if config.wandb is not None:
        try:
            import wandb  # type: ignore[import-not-found]  # noqa: F401
        except ImportError:
            raise RequestError("logging.wandb: wandb is not installed; pip install 'lmx[wandb]'") from None


class Sinks:
    """All sinks of one run."""

    def __init__(
        self, folder: Path, config: Logging, *, name: str, tree: dict[str, Any], start: int, total: int
    ) -> None:
        self._metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._log = (folder / "log.txt").open("a", encoding="utf-8")
        self.progress = Progress(config.progress, start=start, total=total)
        self._queue: queue.Queue[tuple[str, int, Any] | None] = queue.Queue()
        self._failed: str | None = None
        self._thread = threading.Thread(target=self._drain, args=(folder, config, name, tree), daemon=True)
        self._thread.start()
        self._handler = _Spoken(self)
        logging.getLogger("lmx").addHandler(self._handler)

    def scalars(self, step: int, row: dict[str, Any]) -> None:
        """A row of metrics.jsonl and of the dashboards."""
        self._metrics.write(json.dumps(plain_json({"step": step, **row})) + "\n")
        self._metrics.flush()
        self._queue.put(("scalars", step, row))

    def text(self, step: int, tag: str, text: str) -> None:
        """A sample of text."""
        self._log.write(f"step {step} {tag}: {text!r}\n")
        self._log.flush()
        self._queue.put(("text", step, (tag, text)))

    def say(self, text: str) -> None:
        """Words for the terminal (stderr) and log.txt."""
        self._log.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self._log.flush()
        self.progress.say(text)

    def warn(self, text: str) -> None:
        """Words that must not be missed."""
        self.say(f"WARNING: {text}")

    def close(self) -> None:
        """Writes out all that is queued."""
        self._queue.put(None)
        self._thread.join(timeout=60)
        logging.getLogger("lmx").removeHandler(self._handler)
        self.progress.close()
        if self._failed:
            self.warn(f"a dashboard stopped receiving: {self._failed}")
        self._metrics.close()
        self._log.close()

    def _drain(self, folder: Path, config: Logging, name: str, tree: dict[str, Any]) -> None:
        try:
            board, wandb = _open_dashboards(folder, config, name, tree)
            while (item := self._queue.get()) is not None:
                kind, step, value = item
                if kind == "text":
                    if board:
                        board.add_text(value[0], value[1], step)
                    continue
                numbers = {k: v for k, v in value.items() if isinstance(v, int | float)}
                if board:
                    for key, number in numbers.items():
                        board.add_scalar(key, number, step)
                if wandb:
                    wandb.log(numbers, step=step)
            if board:
                board.close()
            if wandb:
                wandb.finish()
        except Exception as error:  # a dashboard must never end the training
            self._failed = f"{type(error).__name__}: {error}"
            print(f"WARNING: a dashboard stopped receiving: {self._failed}", file=sys.stderr)


class _Spoken(logging.Handler):
    """Passes what the rooms below log on to the terminal and log.txt."""

    def __init__(self, sinks: Sinks) -> None:
        super().__init__(logging.WARNING)
        self._sinks = sinks

    def emit(self, record: logging.LogRecord) -> None:
        self._sinks.warn(record.getMessage())


def _open_dashboards(folder: Path, config: Logging, name: str, tree: dict[str, Any]) -> tuple[Any, Any]:
    board = wandb_run = None
    if config.tensorboard:
        from tensorboardX import SummaryWriter

        board = SummaryWriter(str(folder / "tensorboard"))
    if config.wandb is not None:
        import wandb  # type: ignore[import-not-found]

        knobs = config.wandb
        wandb_run = wandb.init(
            project=knobs.project,
            entity=knobs.entity,
            mode=knobs.mode,
            name=name,
            dir=str(folder),
            config=tree,
        )
    return board, wandb_run
