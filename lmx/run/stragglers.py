"""Which host holds the others up: each one's own time a step, told to the others by the coordination service.

In a synchronous step every host waits for the slowest, so step times are equal; what differs is how much of a step a
host works and how much it waits for the devices. Nothing here waits: the accounts go to the service from a thread of
their own, and what a row of metrics shows is what was known when it was written, up to one account old.
"""

from __future__ import annotations

import json
import queue
import statistics
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from typing_extensions import override

from lmx.run.roll_call import RollCall, everybody, tell
from lmx.train.observe import Observer, Phase

WORK = ("input", "step", "save", "between")
"""What a host does itself. `step` hands a step to the devices, `between` is all that has no phase: logging, reading."""
WHAT = "spans"


class Account(NamedTuple):
    """Seconds a step of one host, over the steps since its last account.

    input, step, save, between  its own work (see `WORK`)
    wait                        for the devices: their computation, and hosts that come later
    """

    input: float
    step: float
    save: float
    between: float
    wait: float

    @property
    def own(self) -> float:
        """All that it worked itself."""
        return self.input + self.step + self.save + self.between


class Slowest(NamedTuple):
    """The host with the most work of its own a step.

    excess  seconds a step above the median of the others
    part    of the whole step
    """

    process: int
    excess: float
    part: float
    account: Account


def slowest(accounts: Mapping[int, Account]) -> Slowest | None:
    """None where there are not two to compare."""
    if len(accounts) < 2:
        return None
    process = max(accounts, key=lambda i: (accounts[i].own, -i))
    found = accounts[process]
    others = statistics.median(account.own for i, account in accounts.items() if i != process)
    whole = max(found.own + found.wait, 1e-9)
    return Slowest(process, found.own - others, (found.own - others) / whole, found)


class Stragglers(Observer):
    """Keeps this process's account; the first of several tells whose is the longest."""

    def __init__(self, calls: RollCall, *, every: int, log_every: int, named: float) -> None:
        """An account each `every` rows of metrics, which come each `log_every` steps; `named`: the part of a step from
        which on a host's excess is said.
        """
        self.calls, self.every, self.log_every, self.named = calls, every * log_every, log_every, named
        self.spans: dict[str, float] = dict.fromkeys((*WORK, "wait"), 0.0)
        self.mark: float | None = None
        self.first, self.steps = True, 0
        self.accounts: dict[int, Account] = {}
        self.fresh = False
        self.waiting: queue.SimpleQueue[Account | None] = queue.SimpleQueue()

    @override
    def start(self, step: int, total: int) -> None:
        threading.Thread(target=self._tell, name="stragglers", daemon=True).start()

    def _spend(self, kind: str | None) -> None:
        """All time since the last call went into this; None: into nothing that counts."""
        now = time.perf_counter()
        if self.mark is not None and kind is not None:
            self.spans[kind] += now - self.mark
        self.mark = now

    @override
    def begin(self, phase: Phase, step: int) -> None:
        self._spend("between")

    @override
    def end(self, phase: Phase, step: int) -> None:
        self._spend(phase if phase in WORK else None)

    @override
    def report(self, step: int, row: dict[str, Any]) -> None:
        self._spend("wait")  # the loop read this step's numbers
        if self.first:  # it was compiled
            self.first, self.spans = False, dict.fromkeys(self.spans, 0.0)
            return
        self.steps += 1
        if step % self.every == 0 and self.steps:
            per_step = {kind: seconds / self.steps for kind, seconds in self.spans.items()}
            self.waiting.put(Account(**per_step))
            self.spans, self.steps = dict.fromkeys(self.spans, 0.0), 0
        if self.fresh and step % self.log_every == 0:
            self.fresh = False
            if (found := slowest(dict(self.accounts))) is not None:
                row["slowest"] = self._told(found)

    def _told(self, found: Slowest) -> dict[str, Any]:
        spans = {kind: round(value, 6) for kind, value in found.account._asdict().items()}
        numbers = {"excess": round(found.excess, 6), "part": round(found.part, 4)}
        host = self.calls.names.get(found.process, f"process {found.process}")
        return {"process": found.process, "host": host, **numbers, **spans, "named": found.part >= self.named}

    def _tell(self) -> None:
        """The thread that talks to the service."""
        while (account := self.waiting.get()) is not None:
            tell(WHAT, json.dumps(account))
            if jax.process_index() == 0:
                self.accounts = {i: Account(*json.loads(said)) for i, said in everybody(WHAT).items()}
                if (found := slowest(self.accounts)) is not None:
                    self.calls.name(found.process)  # asks for it here, not in the training thread
                self.fresh = True

    @override
    def rewind(self, step: int) -> None:
        self._spend(None)

    @override
    def close(self, status: str) -> None:
        self.waiting.put(None)
