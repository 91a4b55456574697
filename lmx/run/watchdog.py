"""Watches for steps that do not come: stacks into the logs, the slow host by name, exit code 75."""

from __future__ import annotations

import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from typing_extensions import override

from lmx.config.errors import STOPPED
from lmx.io.files import to_json, write_atomic
from lmx.io.sinks import log_name
from lmx.run.again import command_again
from lmx.run.first import watch
from lmx.run.hosts import leave
from lmx.run.roll_call import RollCall, everybody, tell
from lmx.run.watchdog_config import Watchdog as Config
from lmx.train.observe import Observer, Phase

USUAL = 50
"""Steps whose median time is the usual one."""
UNWATCHED = ("restore", "compile", "replay", "evaluate", "sample")
_STORING = ("save", "finish")
"""Phases that are as long as the storage is slow."""
BEAT_S = 2.0
"""Between two signs of life of a process; longer where there are many, which all go to one service."""
WAITS_S = 3.0
"""Without a sign of its own for so long, a process looks who else has given none."""
_ENDED = "ended"
GONE_S = 2.0
"""How long a failed process waits for the others to say that they are still there."""


class Watchdog(Observer):
    """Runs a thread that looks whether the training thread still makes steps."""

    def __init__(self, config: Config, run: Path) -> None:
        self.config, self.run = config, run
        self.calls = RollCall()
        self.times: deque[float] = deque(maxlen=USUAL)
        self.sign = time.monotonic()
        self.phase: Phase | None = None
        self.reported: tuple[float, int] | None = None
        self.place = (0, 0)  # the newest step that was begun; 1 where it was handed to the devices
        self.over, self.stalled = threading.Event(), threading.Event()

    @override
    def start(self, step: int, total: int) -> None:
        self.sign = time.monotonic()
        if self.calls.mine != 0:
            first = self.calls.name(0)
            say = lambda words: lambda: os.write(2, f"lmx train: {words}\n".encode())  # at once: JAX is quick
            ended, gone = say(f"the connection to {first} has ended"), say(f"{first} is gone")
            watch(self.calls.address(), ended, gone, self.over)
        if self.calls.count > 1:
            threading.Thread(target=self._live, name="signs-of-life", daemon=True).start()
        if self.config.factor is not None:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @override
    def begin(self, phase: Phase, step: int) -> None:
        self.sign, self.phase = time.monotonic(), phase
        if phase == "step":
            self.place = (step, 0)

    @override
    def end(self, phase: Phase, step: int) -> None:
        self.sign, self.phase = time.monotonic(), None
        if phase == "step":
            self.place = (step, 1)

    @override
    def report(self, step: int, row: dict[str, Any]) -> None:
        now = self.sign = time.monotonic()
        if self.reported is not None and self.reported[1] == step - 1:
            self.times.append(now - self.reported[0])
        self.reported = (now, step)

    @override
    def rewind(self, step: int) -> None:
        self.sign, self.reported, self.place = time.monotonic(), None, (step, 0)

    @override
    def close(self, status: str) -> None:
        self.over.set()
        if self.calls.count > 1:
            tell("beat", _ENDED)
        if (
            self.stalled.is_set()
        ):  # the others end, which is no failure of this one: its own thread ends it as well
            threading.Event().wait()
        if status == "failed" and self.calls.count > 1:
            self._name_the_dead()

    def limit(self) -> float | None:
        """Seconds without a sign that are a hang now; None where nothing is: before steps were seen, for one."""
        if self.config.factor is None or not self.times or self.phase in UNWATCHED:
            return None
        if self.phase in _STORING:
            return self.config.saving
        return max(self.config.at_least, self.config.factor * statistics.median(self.times))

    def _watch(self) -> None:
        while not self.over.wait(0.25):
            limit = self.limit()
            if limit is not None and (silent := time.monotonic() - self.sign) > limit:
                self._stall(silent)

    def _live(self) -> None:
        """Leaves signs of life, and names who has left none since this process waits for something.

        Some collectives do not fail where a process dies (one device of a process waits for another one's part): then
        JAX ends the others by its heartbeats, and says a number, not a host.
        """
        period, beats = max(BEAT_S, self.calls.count / 100), 0
        first: tuple[float, dict[int, str]] | None = None
        while not self.over.wait(period):
            beats += 1
            tell("beat", str(beats))
            if self.over.is_set():  # it has ended meanwhile, and said so before this sign
                tell("beat", _ENDED)
                return
            now = time.monotonic()
            if now - self.sign < WAITS_S:
                first = None
            elif first is None:
                first = (now, everybody("beat"))
            elif now - first[0] > 2.5 * period:
                later = everybody("beat")
                same = [i for i, sign in first[1].items() if later.get(i) == sign != _ENDED]
                gone = [self.calls.name(i) for i in same]
                if gone:
                    text = f"{' and '.join(gone)} has given no sign of life for {now - first[0]:.0f} s"
                    print(f"lmx train: {text}", file=sys.stderr, flush=True)
                    return

    def _stall(self, silent: float) -> None:
        self.stalled.set()
        stacks = self.run / log_name(self.calls.mine)
        with open(stacks, "a", encoding="utf-8") as file:
            file.write(
                f"no step for {silent:.0f} s; what every thread of {self.calls.name(self.calls.mine)} does:\n"
            )
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
        step, handed_over = self.place
        found = self.calls.call("stall", f"{step} {handed_over}", self.config.patience)
        text = f"no step for {silent:.0f} s: {self._blame(found)}; the stacks of every thread are in the logs"
        print(f"lmx train: {text}", file=sys.stderr)
        if self.calls.mine == 0:
            print(f"go on with\n    {command_again(self.run)}", file=sys.stderr)
            write_atomic(
                self.run / "summary.json",
                to_json({"status": "stopped", "steps": step - 1, "error": text}) + "\n",
            )
        self.calls.call("leave", "", 2.0)
        if self.calls.mine == 0:
            time.sleep(0.5)  # the others abort where it goes before them
        leave(STOPPED)

    def _blame(self, places: dict[int, str]) -> str:
        """The process that is behind the others, or does not answer."""
        silent = [self.calls.name(i) for i in range(self.calls.count) if i not in places]
        if silent:
            return f"{' and '.join(silent)} {'does' if len(silent) == 1 else 'do'} not answer"
        parsed = {i: tuple(map(int, said.split())) for i, said in places.items()}
        least = min(parsed.values())
        behind = [i for i, place in parsed.items() if place == least]
        step = least[0]
        if len(behind) == self.calls.count:
            where = "a single process" if self.calls.count == 1 else "no process is behind the others"
            return f"{where}; step {step} does not end"
        names = " and ".join(self.calls.name(i) for i in behind)
        return f"{names} is behind the others, at step {step}"

    def _name_the_dead(self) -> None:
        there = self.calls.call("failed", "", GONE_S)
        gone = [self.calls.name(i) for i in range(self.calls.count) if i not in there]
        if gone:
            print(f"lmx train: {' and '.join(gone)} is gone", file=sys.stderr, flush=True)
