"""Requests to stop: signals become a flag that the loop looks at between steps, on all processes at the same one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType

import jax
import numpy as np

OUT_OF_TIME = "trainer.duration"
STOP_FILE = "LMX_STOP_FILE"
"""Environment variable: a file which, once it is there, stops the run at its next checkpoint."""


def look_at_stop_file() -> None:
    """Asks this process, by SIGTERM, to stop where the file is there. Called after each checkpoint."""
    path = os.environ.get(STOP_FILE)
    if path and jax.process_index() == 0 and os.path.exists(path):
        del os.environ[STOP_FILE]  # a second SIGTERM would end the process at once
        os.kill(os.getpid(), signal.SIGTERM)


class StopRequest:
    """While entered, the first SIGTERM or SIGINT sets `name`, and the second ends the process at once."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def reason(self, step: int, *, out_of_time: bool) -> str | None:
        """Why to stop after this step: the signal's name, or OUT_OF_TIME."""
        return self.name or (OUT_OF_TIME if out_of_time else None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            os._exit(128 + number)
        self.name = signal.Signals(number).name
        message = (
            f"\n{self.name}: finishing this step, then saving. Once more ends at once, without saving.\n"
        )
        os.write(sys.stderr.fileno() if hasattr(sys.stderr, "fileno") else 2, message.encode())


class SharedStop(StopRequest):
    """The same for several processes: a SIGTERM to any of them, or the clock of process 0, stops all at one step.

    JAX itself takes SIGTERM, tells the other processes and finds the step (`reached_preemption_sync_point`): a handler
    of one's own would take that away from it. It counts from 1, and where the signal comes before the first step it
    settles on 1: so it is told how often it was asked, which is another number than the step in a run that goes on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0

    def __enter__(self) -> SharedStop:
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle)
        return self

    def reason(self, step: int, *, out_of_time: bool) -> str | None:
        """Every process calls this after every step."""
        from jax.experimental import multihost_utils

        if out_of_time and jax.process_index() == 0 and self.name is None:
            self.name = OUT_OF_TIME
            os.kill(os.getpid(), signal.SIGTERM)
        self._asked += 1
        if not multihost_utils.reached_preemption_sync_point(self._asked):
            return None
        over = np.int32(self.name == OUT_OF_TIME)
        return OUT_OF_TIME if int(multihost_utils.broadcast_one_to_all(over)) else "SIGTERM"

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            os._exit(128 + number)
        self.name = signal.Signals(number).name
        os.kill(os.getpid(), signal.SIGTERM)
