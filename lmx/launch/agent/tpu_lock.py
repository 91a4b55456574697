"""The lock file of libtpu: removed only when its holder is dead."""

from __future__ import annotations

import fcntl
import os

from lmx.launch.agent.process import Refused

LOCK = "/tmp/libtpu_lockfile"
TPU_DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")


def clear_tpu_lock(path=LOCK):
    """Removes the lock file that a dead process left; raises where its holder lives. What was done, in words."""
    if not os.path.exists(path):
        return "none"
    holders = holders_of(path)
    if holders:
        names = ", ".join(f"process {pid} ({command})" for pid, command in holders)
        raise Refused(f"the TPU is in use: {path} is held by {names}; end that first")
    try:
        with open(path) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except BlockingIOError:
        raise Refused(f"the TPU is in use: {path} is locked by a process of another user") from None
    except PermissionError:
        raise Refused(
            f"{path} belongs to another user, and its holder cannot be seen; remove it by hand"
        ) from None
    return "removed: its holder is dead"


def holders_of(path):
    """(pid, command) of each process that has the file open, as far as this user may see."""
    found, real = [], os.path.realpath(path)
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            links = [os.readlink(f"/proc/{name}/fd/{fd}") for fd in os.listdir(f"/proc/{name}/fd")]
            if real in links:
                with open(f"/proc/{name}/comm") as stream:
                    found.append((int(name), stream.read().strip()))
        except OSError:
            continue
    return found
