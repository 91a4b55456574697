"""Pods: where jobs run, one at a time on each. An attempt lives on without the driver, and leaves its end on disk."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from lmx.config.errors import STOPPED

MARK = "LMX_SWEEP_ATTEMPT"
"""In the environment of every process of an attempt: its folder. So exactly those processes can be found and ended."""

_WRAPPER = """
mkdir "$1/claim" 2>/dev/null || exit 0
echo $$ > "$1/pid.tmp" && mv "$1/pid.tmp" "$1/pid"
trap : TERM INT HUP
folder=$1; shift
"$@" > "$folder/log.txt" 2>&1 < /dev/null
echo $? > "$folder/exit.tmp" && mv "$folder/exit.tmp" "$folder/exit"
"""


class Ended(NamedTuple):
    """An attempt that runs no more.

    code    its exit code; None: it went without telling how (killed, machine gone)
    reason  in words, where more is known than the code
    step    the newest checkpoint, where that is not to be seen in the run's directory here
    began   whether any of its processes were started
    """

    code: int | None
    reason: str | None = None
    step: int | None = None
    began: bool = True


class Pod(Protocol):
    """A gang of hosts that runs one job at a time. `folder` is the attempt's, and all that a new driver needs.

    storage  where run directories are: pods of the same storage go on from each other's checkpoints
    why      what it answered when it was last asked in vain
    """

    name: str
    storage: str
    why: str

    def start(self, folder: Path, program: Sequence[str], job: Path, run: Path) -> None:
        """Starts a job, `program` being what this machine runs jobs with; OSError where the pod cannot."""
        ...

    def state(self) -> Literal["ready", "away", "gone"]:
        """Whether it takes a job now; away: it is asked again, or yet to be made; gone: it was away for too long."""
        ...

    def lost(self, folder: Path) -> None:
        """Tells it that an attempt was lost on it."""
        ...

    def leave(self) -> None:
        """The driver ends."""
        ...

    def poll(self, folder: Path) -> Ended | None:
        """How the attempt ended; None while it runs."""
        ...

    def stop(self, folder: Path, *, force: bool) -> None:
        """Asks the attempt to end (SIGTERM), or ends it; returns at once."""
        ...


@dataclass
class LocalPod:
    """A part of this machine.

    environment  added to that of the driver
    cores        the CPU cores that its jobs may use; None: all
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: Sequence[int] | None = None
    storage: str = "here"
    why: str = ""
    _children: list[subprocess.Popen] = field(default_factory=list, repr=False)

    def start(self, folder: Path, program: Sequence[str], job: Path, run: Path) -> None:
        """Starts the program on the job."""
        self.spawn(folder, [*program, str(job.absolute()), str(run.absolute())])

    def state(self) -> Literal["ready", "away", "gone"]:
        """This machine is there."""
        return "ready"

    def lost(self, folder: Path) -> None:
        """Nothing is to be done."""

    def leave(self) -> None:
        """Nothing is to be done."""

    def spawn(self, folder: Path, command: Sequence[str]) -> None:
        """Starts a command in a session of its own, so that the driver's end does not end it."""
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        cores = self.cores
        self._children.append(
            subprocess.Popen(
                ["/bin/sh", "-c", _WRAPPER, "lmx-sweep", str(folder), *command],
                env={**os.environ, **self.environment, MARK: str(folder)},
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, cores),
            )
        )

    def poll(self, folder: Path) -> Ended | None:
        """The exit code that the wrapper left; lost where the wrapper is gone without one."""
        self._children = [child for child in self._children if child.poll() is None]
        code = _read_number(folder / "exit")
        if code is not None:
            _kill(folder)
            return Ended(code)
        if any(str(folder.absolute()) in map(str, child.args) for child in self._children):  # type: ignore[union-attr]
            return None
        pid = _read_number(folder / "pid")
        if pid is not None and _is_wrapper(pid, folder):
            return None
        if pid is None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "claim").mkdir()  # a wrapper that comes late ends at once
            except FileExistsError:
                if members(folder):
                    return None
        code = _read_number(folder / "exit")  # it may have ended between the two looks
        _kill(folder)
        return Ended(code)

    def stop(self, folder: Path, *, force: bool) -> None:
        """SIGTERM or SIGKILL to the attempt's processes."""
        if force:
            _kill(folder)
            return
        for pid in members(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _is_wrapper(pid: int, folder: Path) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return str(folder.absolute()).encode() in words


def members(folder: Path) -> list[int]:
    """The processes of an attempt, by the mark in their environment."""
    mark = f"{MARK}={folder.absolute()}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                with open(f"/proc/{entry.name}/environ", "rb") as stream:
                    if mark in stream.read().split(b"\0"):
                        found.append(int(entry.name))
            except OSError:
                continue
    return found


def _kill(folder: Path) -> None:
    for pid in members(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def in_words(code: int | None) -> str:
    """How an attempt ended that was taken away."""
    if code is None:
        return "lost"
    if code == STOPPED:
        return "stopped early, resumable"
    try:
        return f"ended by {signal.Signals(code - 128).name}"
    except ValueError:
        return f"exit code {code}"


def last_words(log: Path) -> str:
    """What an attempt has said last: its last line of lmx, else its last line."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    said = [line for line in lines if line.startswith("lmx ")] or [line for line in lines if line.strip()][
        -1:
    ]
    return said[-1][:300] if said else "it said nothing"
