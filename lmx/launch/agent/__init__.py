"""What runs on a host: starts the processes of an attempt, tells how they are, stops them. Standard library alone.

The files of this folder are sent to the host as one text (see `source`), so a host needs nothing but a Python, 3.8 or
newer. Each process gets a session and process group of its own; its identity is its id together with the moment it was
started, so a number that the system has given to another process since is never signalled.

In the attempt's folder on the host:
    task-N.pid    id, start time and boot of the process        task-N.exit   exit code and time
    task-N.log    its standard error                            task-N.out    its standard output
    supervisor.*  the same of the parent, which outlives the connection that started it
"""

from __future__ import annotations

from pathlib import Path

from lmx.launch.agent.process import Refused, alive, boot, read, started, stop, write
from lmx.launch.agent.progress import OWN, OWN_TOO, last_row, move_aside, newest_checkpoint
from lmx.launch.agent.ready import probe, setup, unpack
from lmx.launch.agent.supervisor import start
from lmx.launch.agent.tpu_lock import clear_tpu_lock
from lmx.launch.agent.view import poll

__all__ = [
    "OWN",
    "OWN_TOO",
    "Refused",
    "alive",
    "boot",
    "clear_tpu_lock",
    "last_row",
    "move_aside",
    "newest_checkpoint",
    "poll",
    "probe",
    "read",
    "setup",
    "source",
    "start",
    "started",
    "stop",
    "unpack",
    "write",
]

PARTS = ("process", "progress", "tpu_lock", "supervisor", "view", "ready", "request")
"""The files, each after those that it imports; a name is defined in one of them alone."""
_LEFT_OUT = ("from lmx.launch.agent.", "from __future__ ")


def source() -> bytes:
    """The program that a host gets: all parts in one text, without what they import from each other."""
    lines = ["from __future__ import annotations"]
    for part in PARTS:
        text = Path(__file__).with_name(f"{part}.py").read_text(encoding="utf-8")
        lines += [line for line in text.splitlines() if not line.startswith(_LEFT_OUT)]
    return "\n".join(lines).encode()
