"""Processes of a host: each known by its id and the moment it was started, so that no other is ever signalled."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import time


class Refused(Exception):
    """What cannot be done on this host, in words."""


def started(pid):
    """When a process began, in clock ticks since the boot; None where it is gone (or a zombie)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def boot():
    """A name of this start of the machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as stream:
            return stream.read().strip()
    except OSError:
        return "unknown"


def alive(identity):
    """Whether the process of a pid file is still that process; one that had ended before it was looked at is not."""
    if identity is None or identity["began"] is None or identity["boot"] != boot():
        return False
    return started(identity["pid"]) == identity["began"]


def read(path):
    """A JSON file, or None."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return None


def write(path, value):
    """A JSON file, whole or not there."""
    with open(path + ".tmp", "w", encoding="utf-8") as stream:
        json.dump(value, stream)
    os.replace(path + ".tmp", path)


def signal_group(pid, number):
    """A signal to the process group that a process leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def stop(folder, tasks, grace=60.0):
    """SIGTERM to the tasks that live, after `grace` seconds SIGKILL to their groups; which needed it."""
    folder = os.path.abspath(os.path.expanduser(folder))
    return end({index: read(f"{folder}/task-{index}.pid") for index in tasks}, grace)


def sweep(folders, grace=5.0):
    """The same for whatever lives of several attempts: what was left when their host did not answer."""
    paths = [p for folder in folders for p in glob.glob(os.path.expanduser(folder) + "/task-*.pid")]
    return end({path: read(path) for path in paths}, grace)


def end(found, grace):
    """Ends the processes that live of {name: identity}."""
    living = {name: identity for name, identity in found.items() if identity and alive(identity)}
    for identity in living.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity["pid"], signal.SIGTERM)
    until = time.monotonic() + grace
    while any(alive(identity) for identity in living.values()) and time.monotonic() < until:
        time.sleep(0.05)
    killed = [name for name, identity in living.items() if alive(identity)]
    for name in killed:
        signal_group(living[name]["pid"], signal.SIGKILL)
    until = time.monotonic() + 5
    while any(alive(identity) for identity in living.values()) and time.monotonic() < until:
        time.sleep(0.02)
    return {"stopped": sorted(living), "killed": killed}
