"""What watches a run: one seam that witnesses, watchdogs, accounts of time and staged faults all use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from lmx.types import Batch

Phase = Literal["restore", "input", "compile", "step", "replay", "evaluate", "sample", "save", "finish"]
"""What the training thread does, one after another: `input` waits for a batch, `compile` for the program of a kind of
step that is the first of its kind, `save` is the part of a save that holds the training up, `finish` waits at the end
until the last checkpoint is whole."""

Moment = Literal["written", "saved", "unsaved", "sent", "unsent"]
"""Of a checkpoint, told by the thread that writes or sends it: its arrays are on disk, it is whole, it could not be
written; it is whole in the remote tier, it does not come there."""


class Observer:
    """Watches a run. Every method does nothing here; a subclass has those that it needs."""

    def begin(self, phase: Phase, step: int) -> None:
        """The training thread begins with `phase` of `step` (0: `restore`)."""

    def end(self, phase: Phase, step: int) -> None:
        """It is done with it, also where an exception ended it."""

    def start(self, step: int, total: int) -> None:
        """The run is set up, goes on after `step`, and ends with step `total`."""

    def batch(self, step: int, batch: Batch) -> Batch:
        """This process's rows of a step's batch on the host, some steps before they are used; what comes back is
        trained on.
        """
        return batch

    def dispatched(self, step: int, metrics: dict[str, Any]) -> None:
        """The devices have been told to do a step; `metrics` are to come: reading them would wait."""

    def copied(self, step: int, where: str, name: str, parts: list[Any]) -> list[Any]:
        """A replay has copied this process's parts of an array to other devices; what comes back is replayed.

        `where`: `parameters` to be compared, the same before `computing`, or `gradients` that came out.
        """
        return parts

    def report(self, step: int, row: dict[str, Any]) -> None:
        """The numbers of a step are here."""

    def checkpoint(self, moment: Moment, step: int) -> None:
        """Something happened to the checkpoint of a step."""

    def rewind(self, step: int) -> None:
        """The run has gone back to the state after `step`, and does the steps after it again, on other data."""

    def close(self, status: str) -> None:
        """The run ends: `done`, `stopped` or `failed`."""


class Observers:
    """Several observers as one, each called in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.all = tuple(observers)

    @contextmanager
    def during(self, phase: Phase, step: int) -> Iterator[None]:
        """Around what a phase does."""
        for observer in self.all:
            observer.begin(phase, step)
        try:
            yield
        finally:
            for observer in self.all:
                observer.end(phase, step)

    def start(self, step: int, total: int) -> None:
        """See `Observer.start`."""
        for observer in self.all:
            observer.start(step, total)

    def batch(self, step: int, batch: Batch) -> Batch:
        """See `Observer.batch`; each sees what the one before it made."""
        for observer in self.all:
            batch = observer.batch(step, batch)
        return batch

    def dispatched(self, step: int, metrics: dict[str, Any]) -> None:
        """See `Observer.dispatched`."""
        for observer in self.all:
            observer.dispatched(step, metrics)

    def copied(self, step: int, where: str, name: str, parts: list[Any]) -> list[Any]:
        """See `Observer.copied`; each sees what the one before it made."""
        for observer in self.all:
            parts = observer.copied(step, where, name, parts)
        return parts

    def report(self, step: int, row: dict[str, Any]) -> None:
        """See `Observer.report`."""
        for observer in self.all:
            observer.report(step, row)

    def checkpoint(self, moment: Moment, step: int) -> None:
        """See `Observer.checkpoint`."""
        for observer in self.all:
            observer.checkpoint(moment, step)

    def rewind(self, step: int) -> None:
        """See `Observer.rewind`."""
        for observer in self.all:
            observer.rewind(step)

    def close(self, status: str) -> None:
        """See `Observer.close`."""
        for observer in self.all:
            observer.close(status)
