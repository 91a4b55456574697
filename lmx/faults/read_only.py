"""A folder in which nothing can be made: by its permissions, and for root, who is above them, by the immutable flag."""

from __future__ import annotations

import array
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GET_FLAGS, SET_FLAGS, IMMUTABLE = 0x80086601, 0x40086602, 0x10
"""FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_IMMUTABLE_FL of Linux (see ioctl_iflags(2))."""


def _set_immutable(folder: Path, on: bool) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags = array.array("l", [0])
        fcntl.ioctl(handle, GET_FLAGS, flags)
        flags[0] = flags[0] | IMMUTABLE if on else flags[0] & ~IMMUTABLE
        fcntl.ioctl(handle, SET_FLAGS, flags)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While entered, nothing is made in `folder` or taken out of it. OSError where root may not lock it."""
    if os.geteuid() != 0:
        mode = folder.stat().st_mode
        os.chmod(folder, 0o555)
        try:
            yield
        finally:
            os.chmod(folder, mode)
        return
    _set_immutable(folder, True)
    try:
        yield
    finally:
        _set_immutable(folder, False)
