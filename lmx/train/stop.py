"""Requests to stop: signals become a flag that the loop looks at between steps."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType


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

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            os._exit(128 + number)
        self.name = signal.Signals(number).name
        message = (
            f"\n{self.name}: finishing this step, then saving. Once more ends at once, without saving.\n"
        )
        os.write(sys.stderr.fileno() if hasattr(sys.stderr, "fileno") else 2, message.encode())
