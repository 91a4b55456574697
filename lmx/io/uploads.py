"""Checkpoints on their way to the remote tier: one after another in the background, again and again where it fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from lmx.io import arrays
from lmx.io.config import RemoteTier
from lmx.io.manifest import Manifest, read_manifest
from lmx.io.remote import Remote
from lmx.io.retention import kept

Warn = Callable[[str], None]
Tell = Callable[[Literal["sent", "unsent"], int], None]
_SMALL = 1 << 26
"""Bytes of a file of the run directory that is still sent with each checkpoint."""


class Uploads:
    """Sends whole checkpoints of `local`, the newest first, and keeps order in the remote tier."""

    def __init__(
        self,
        remote: Remote,
        tier: RemoteTier,
        local: Path,
        *,
        best: tuple[str, str],
        warn: Warn,
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`best`: see `lmx.io.retention.kept`. `tell` is called when a checkpoint is there, or was not sent."""
        self._remote, self._tier, self._local, self._best = remote, tier, local, best
        self._warn, self._tell, self._clock = warn, tell, clock
        self._changed = threading.Condition()
        self._waiting: list[int] = []
        self._there: set[int] = set()
        self._sending: int | None = None
        self._thread: threading.Thread | None = None
        self._last = -float("inf")
        self._deadline: float | None = None
        self._failures = 0

    def permanent(self, step: int) -> bool:
        """Whether it stays there for ever."""
        return self._tier.keep_every is not None and step % self._tier.keep_every == 0

    def add(self, step: int, *, always: bool = False) -> None:
        """A checkpoint that is whole here is to be sent; `always`: whenever the last one was, if it is not there."""
        if always and step in self._there:
            return
        minutes = self._tier.every_minutes
        soon = minutes is not None and self._clock() - self._last < 60 * minutes
        if soon and not always and not self.permanent(step):
            return
        with self._changed:
            if step == self._sending or step in self._waiting:
                return
            passed = [s for s in self._waiting if s < step and not self.permanent(s)]
            self._waiting = sorted({*self._waiting, step} - set(passed))
            self._last = self._clock()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="checkpoint-upload", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        for old in passed:
            self._tell("unsent", old)
            self._warn(f"the checkpoint of step {old} was not sent: that of step {step} is newer")

    def is_there(self, steps: Iterable[int]) -> None:
        """Checkpoints that the remote tier has already."""
        self._there |= set(steps)

    def needed(self) -> set[int]:
        """Steps whose local checkpoints must stay until they are sent."""
        with self._changed:
            return {*self._waiting, *([] if self._sending is None else [self._sending])}

    def finish(self) -> list[int]:
        """Waits until all is sent, or until sending still fails after `patience`; the steps that are not there."""
        with self._changed:
            self._deadline = self._clock() + self._tier.patience
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()
        with self._changed:
            self._deadline, left = None, sorted(self._waiting)
            self._waiting = []
        for step in left:
            self._tell("unsent", step)
        return left

    # ---- in the background

    def _work(self) -> None:
        while (step := self._next()) is not None:
            try:
                self._send(step)
            except Exception as error:  # of any file system: each has errors of its own
                self._failed(step, error)
            else:
                if self._failures:
                    self._warn(f"the checkpoint of step {step} is at {self._remote.url} now")
                self._failures = 0
                self._there.add(step)
                self._tell("sent", step)
                self._retain()
            finally:
                with self._changed:
                    self._sending = None

    def _next(self) -> int | None:
        """The step to send now; None: the thread ends."""
        with self._changed:
            if self._failures:
                until = self._clock() + self._tier.retry_after
                while self._deadline is None and (left := until - self._clock()) > 0:
                    self._changed.wait(left)
                if self._deadline is not None and self._clock() >= self._deadline:
                    self._thread = None
                    return None
                if self._deadline is not None:
                    self._changed.wait(min(self._tier.retry_after, self._deadline - self._clock(), 1.0))
            if not self._waiting:
                self._thread = None
                return None
            self._sending = self._waiting.pop()
            return self._sending

    def _send(self, step: int) -> None:
        folder = self._local / str(step)
        manifest = read_manifest(folder)
        if not isinstance(manifest, Manifest):
            raise OSError(f"{folder}: {manifest}")
        run = self._local.parent
        self._remote.keep(
            [
                p
                for p in sorted(run.iterdir())
                if p.is_file() and p.name != "lock" and p.stat().st_size < _SMALL
            ]
        )
        self._remote.send(folder, manifest)

    def _failed(self, step: int, error: Exception) -> None:
        self._failures += 1
        with self._changed:
            passed = any(s > step for s in self._waiting) and not self.permanent(step)
            if not passed:
                self._waiting = sorted({*self._waiting, step})
        if passed:
            self._tell("unsent", step)
        then = "a newer one is sent in its place" if passed else "it stays here, and is sent again"
        self._warn(
            f"the checkpoint of step {step} could not be sent to {self._remote.url} (try {self._failures}): "
            f"{arrays.say_storage_error(error)}; {then}"
        )

    def _retain(self) -> None:
        """What the tier need not keep goes, now that something newer is whole there."""
        try:
            whole = self._remote.manifests()
            stay = kept({step: m.metrics for step, m in whole.items()}, self._tier, self._best)
            for step in whole:
                if step not in stay:
                    self._remote.remove(step)
        except Exception as error:
            self._warn(f"old checkpoints at {self._remote.url} could not be removed: {error}")
