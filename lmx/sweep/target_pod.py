"""A pod that is a launch target: a small process here (lmx.sweep.launched) looks after each attempt there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lmx.config.errors import DONE
from lmx.io.files import read_json, write_atomic
from lmx.launch.target import Target
from lmx.sweep.enlist import HERE, enlisted, folder_of, preparing
from lmx.sweep.launched import LOST
from lmx.sweep.pods import Ended, LocalPod, Pod

_CRASHES = 3
_ASK_FIRST, _ASK_LAST = 2.0, 60.0
_LEAVE = 60.0
"""Seconds for a process that makes a pod to see that nobody wants it any more."""
_MARK = "launched"
"""A file of an attempt that names its pod's folder: who finds the attempt needs nothing else."""


@dataclass
class TargetPod:
    """A gang of hosts that a launch target reaches. `folder`: see lmx.sweep.enlist."""

    name: str
    folder: Path
    patience: float
    storage: str = field(init=False)
    _local: LocalPod = field(init=False, repr=False)
    why: str = ""
    _made: bool = field(default=False, repr=False)
    _ready: bool = field(default=True, repr=False)
    _asking: subprocess.Popen | None = field(default=None, repr=False)
    _asked_at: float = field(default=0.0, repr=False)
    _failing_since: float | None = field(default=None, repr=False)
    _wait: float = field(default=_ASK_FIRST, repr=False)

    def __post_init__(self) -> None:
        self._local = LocalPod(self.name)
        facts = read_json(self.folder / "pool.json") or {}
        self.storage = facts.get("storage", HERE)
        # One that is made may take hours to come: no job waits for it while others are free.
        self._made = facts.get("made_first", False)
        self._ready = not self._made

    def start(self, folder: Path, program: Sequence[str], job: Path, run: Path) -> None:
        """Starts the process that starts the job there."""
        folder.mkdir(parents=True, exist_ok=True)
        words = [str(path.absolute()) for path in (self.folder, job, run)]
        write_atomic(folder / _MARK, "\n".join(words) + "\n", sync=True)
        self._spawn(folder, 1)

    def _spawn(self, folder: Path, number: int) -> None:
        pod, job, run = (folder / _MARK).read_text(encoding="utf-8").splitlines()
        words = [sys.executable, "-m", "lmx.sweep.launched", "run", str(folder.absolute()), pod, job, run]
        self._local.spawn(folder / f"driver-{number}", words)

    def poll(self, folder: Path) -> Ended | None:
        """How the attempt ended. Where its process here has died before it knew, another one looks after the same."""
        number = max((int(p.name.rpartition("-")[2]) for p in folder.glob("driver-*")), default=0)
        ended = self._local.poll(folder / f"driver-{number}") if number else None
        if number and ended is None:
            return None
        found = read_json(folder / "ended.json")
        if isinstance(found, dict):
            code = None if found["code"] == LOST else found["code"]
            return Ended(code, found["reason"], found["step"], found["began"])
        if not (folder / _MARK).exists():
            return Ended(None, began=False)  # the driver was killed between the lease and the start
        codes = [read_json(path) for path in folder.glob("driver-*/exit")]
        crashed = [code for code in codes if isinstance(code, int) and code < 128]
        if len(crashed) >= _CRASHES:
            return Ended(None, f"its launcher failed: {_last_line(folder / f'driver-{number}' / 'log.txt')}")
        self._spawn(folder, number + 1)
        return None

    def stop(self, folder: Path, *, force: bool) -> None:
        """SIGTERM to the process here, which has the job save there; `force`: without more time."""
        if force:
            (folder / "kill").touch()
            return
        (folder / "stop").touch()
        for driver in folder.glob("driver-*"):
            self._local.stop(driver, force=False)

    # ---- whether it is there

    def lost(self, folder: Path) -> None:
        """It gets no job until it has answered."""
        self._ready, self._failing_since, self._wait = False, None, _ASK_FIRST
        self._asked_at = 0.0

    def state(self) -> Literal["ready", "away", "gone"]:
        """One that is not ready is asked again and again, in a process of its own; one that has answered nothing good
        for `patience` seconds is gone."""
        if self._ready:
            return "ready"
        now = time.monotonic()
        if self._asking is not None:
            code = self._asking.poll()
            if code is None:
                return "away"
            self._asking = None
            if code == DONE:
                self._ready, self.why = True, ""
                return "ready"
            self.why = _last_line(self.folder / "check.log")
            self._failing_since = self._failing_since or now
            self._asked_at, self._wait = now, min(2 * self._wait, _ASK_LAST)
        if self._failing_since is not None and now > self._failing_since + self.patience:
            return "gone"
        if not self._asked_at or now > self._asked_at + self._wait:
            with open(self.folder / "check.log", "ab") as log:
                words = [sys.executable, "-m", "lmx.sweep.launched", "check", str(self.folder.absolute())]
                self._asking = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return "away"

    def leave(self) -> None:
        """Nobody asks it any more. Who makes a pod ends between two calls of gcloud: see `release`."""
        if self._asking is not None and not self._made:
            self._asking.terminate()
            self._asking.wait()
            self._asking = None


def release(sweep: Path) -> list[str]:
    """Gives back what was made for a sweep's pods, whoever made it: TPU pods. What was done, in words."""
    said = []
    for path in sorted(sweep.glob(".pods/*/plan.json")):
        launch = enlisted(path.parent).launch
        (path.parent / "stop").touch()  # whoever still waits for the pod makes it no more
        with preparing(path.parent, patience=_LEAVE):
            own = launch.target.release(launch.plan)
        if own:
            (path.parent / "prepared").unlink(missing_ok=True)  # made again where the sweep goes on
        said += own
    return said


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        lines = []
    said = [line for line in lines if line.strip()]
    return said[-1] if said else "it said nothing"


def target_pods(sweep: Path, targets: dict[str, Target], patience: float) -> list[Pod]:
    """The pods of a sweep's folder."""
    return [TargetPod(name, folder_of(sweep, name, target), patience) for name, target in targets.items()]


def attached(name: str, folder: Path) -> Pod:
    """The pod of an attempt that another driver has started, by what the attempt's folder says."""
    if (folder / _MARK).exists():
        pod = Path((folder / _MARK).read_text(encoding="utf-8").splitlines()[0])
        return TargetPod(name, pod, (read_json(pod / "pool.json") or {}).get("patience", 0.0))
    return LocalPod(name)
