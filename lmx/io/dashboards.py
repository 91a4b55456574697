"""Dashboards of a run: TensorBoard and Weights & Biases, fed by a thread of their own."""

from __future__ import annotations

import importlib.util
import logging
import math
import queue
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lmx.config.errors import RequestError
from lmx.io.config import Logging
from lmx.io.files import to_plain

_CLOSING_S = 60.0
"""How long the end of a run waits for a dashboard."""


def check(config: Logging) -> None:
    """RequestError when Weights & Biases is asked for and not installed."""
    if config.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise RequestError(
            "logging.wandb: Weights & Biases is not installed; pip install 'lmx[wandb]', or logging=default"
        )


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
        self._folder = folder / "tensorboard"
        self._error: OSError | None = None
        self._told = False
        # Events after `start` belong to a past that a resumed run went back on.
        self._writer = self._open(start + 1 if start else None)
        if not start:
            import yaml

            self.text(0, "configuration", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))

    def _open(self, purge: int | None) -> Any:
        """A new file of events, whose errors are kept: they would end tensorboardX's thread, and whoever waits for it
        would wait for ever, the end of the process too."""
        from tensorboardX import SummaryWriter

        writer: Any = SummaryWriter(str(self._folder), flush_secs=10, purge_step=purge)
        file = writer.file_writer.event_writer._ev_writer
        for name in ("write_event", "flush", "close"):
            setattr(file, name, self._kept(getattr(file, name)))
        return writer

    def _kept(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any) -> Any:
            try:
                return call(*arguments)
            except OSError as error:
                self._error = error
                return None

        return guarded

    def _sound(self, step: int) -> bool:
        """Whether there is a file to write to: after an error, such as a full disk, a new one is tried at each step."""
        if self._error is None:
            return True
        if not self._told:
            logging.getLogger("lmx").warning(
                "tensorboard, step %d: %s; rows are missing there, metrics.jsonl has them", step, self._error
            )
            self._told = True
        try:
            self._writer.close()
            self._error = None
            self._writer = self._open(None)
        except OSError as error:
            self._error = error
            return False
        return True

    def scalars(self, step: int, numbers: dict[str, float]) -> None:
        if not self._sound(step):
            return
        for tag, number in numbers.items():
            if not math.isfinite(number):  # nothing to draw, and tensorboardX prints a warning
                continue
            self._writer.add_scalar(tag, number, step)

    def text(self, step: int, tag: str, text: str) -> None:
        if not self._sound(step):
            return
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
