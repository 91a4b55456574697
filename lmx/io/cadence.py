"""When a run saves: every so many steps, every so many minutes, and again after a save that failed."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax

from lmx.io.config import Checkpoint

Agree = Callable[[int, Callable[[], bool]], bool]
"""agree(step, wanted) -> whether all processes save after `step`, by the clock of process 0, which asks `wanted`."""


def _alone(step: int, wanted: Callable[[], bool]) -> bool:
    return wanted()


class Cadence:
    """Says after which steps to save. Steps must be asked for in order; one asked for again gets the same answer."""

    def __init__(
        self,
        config: Checkpoint,
        *,
        agree: Agree | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`agree` is needed where several processes save by time: their clocks differ."""
        self._config, self._clock = config, clock
        self._agree = agree or (_alone if jax.process_count() == 1 else None)
        self._since = clock()
        self._retry_at: float | None = None
        self._asked, self._answer = 0, False

    def due(self, step: int) -> bool:
        """Whether to save after this step."""
        if self.permanent(step) or (self._config.every is not None and step % self._config.every == 0):
            return True
        if step > self._asked:
            self._asked, self._answer = step, self._by_clock(step)
        return step == self._asked and self._answer

    def permanent(self, step: int) -> bool:
        """Whether the checkpoint of this step stays for ever, in some tier."""
        tiers = (self._config, self._config.remote)
        return any(t is not None and t.keep_every is not None and step % t.keep_every == 0 for t in tiers)

    def _by_clock(self, step: int) -> bool:
        if self._config.every_minutes is None and jax.process_count() > 1:
            return False  # a look at the clock that all must share is not worth it for a save that failed
        if self._config.every_minutes is None and self._retry_at is None:
            return False
        if self._agree is None:
            raise ValueError("several processes that save by time need a way to agree on the step")
        return self._agree(step, self._wanted)

    def _wanted(self) -> bool:
        now, minutes = self._clock(), self._config.every_minutes
        again = self._retry_at is not None and now >= self._retry_at
        return again or (minutes is not None and now - self._since >= 60 * minutes)

    def began(self) -> None:
        """A save has begun."""
        self._since, self._retry_at = self._clock(), None

    def failed(self) -> None:
        """A save has failed."""
        self._retry_at = self._clock() + self._config.retry_after
