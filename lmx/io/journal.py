"""A folder that one process at a time drives: the lock that says which, and a log of what drivers did.

Both outlive a driver that is killed: the lock goes with its process, and a line that was being written is passed over.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from lmx.config.errors import RequestError
from lmx.io.lines import Fits, read_lines

_LOCK, _LOG = "driver.lock", "events.jsonl"
_LOOKS_END = 10.0
"""Seconds within which nobody just looks at the lock for a moment, however many do."""


def hold(folder: Path, taken: Callable[[str], str]) -> IO[str]:
    """The right to drive `folder`, until `let_go` or the end of the process.

    RequestError with `taken(holder)` where another process has it.
    """
    handle = (folder / _LOCK).open("a+", encoding="utf-8")
    until = time.monotonic() + _LOOKS_END
    while not _locked(handle, fcntl.LOCK_EX):
        # Those who only look share the lock for a moment: no reason to refuse. A driver shares it with nobody.
        if not _locked(handle, fcntl.LOCK_SH) or time.monotonic() > until:
            handle.close()
            raise RequestError(taken(driver(folder) or "another process"))
        fcntl.flock(handle, fcntl.LOCK_UN)
        time.sleep(0.001)
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {platform.node()}")
    handle.flush()
    return handle


def _locked(handle: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def let_go(handle: IO[str]) -> None:
    """Gives the right back."""
    handle.truncate(0)
    handle.close()


def driver(folder: Path) -> str | None:
    """Who drives `folder` now, `process 123 on host`; None where nobody does."""
    try:
        with open(folder / _LOCK, encoding="utf-8") as handle:
            if not _locked(handle, fcntl.LOCK_SH):
                return handle.read().strip() or "another process"
    except OSError:
        pass
    return None


def append(folder: Path, *records: Mapping[str, Any]) -> None:
    """Adds lines to the log, all in one write, and waits until they are on the disk; OSError where that is full."""
    data = "".join(f"{json.dumps(record)}\n" for record in records).encode()
    handle = os.open(folder / _LOG, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":  # what a killed driver left unfinished ends here
            data = b"\n" + data
        if os.write(handle, data) != len(data):
            raise OSError(f"{folder / _LOG}: the disk is full")
        os.fsync(handle)
    finally:
        os.close(handle)


def read(folder: Path, fits: Fits | None = None) -> list[dict[str, Any]]:
    """Every whole line of the log; RequestError that names a damaged one: what it said may be what was to be done."""
    return read_lines(folder / _LOG, fits).sound()
