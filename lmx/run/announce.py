"""What the clock of process 0 asks for happens on all processes at one step, without any device and without waiting.

Process 0 announces at some steps, through the coordination service, whether something is to happen at the next of
them, and which that is: about a second away. The others read it when they come to the same step. Training keeps the
processes within two steps of each other and the devices busy meanwhile, so that nobody waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax

LOOK_S = 1.0
"""About the time between two announcements."""
MOST_STEPS = 1000
_KEPT = 8
"""Announcements that are not deleted yet: more than the processes are apart."""
TIMEOUT_S = 600


class Announced:
    """`announced(step, wanted)`: whether all do it after `step`. Every process asks for the same steps, in order."""

    def __init__(
        self, name: str, *, process: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._prefix = f"lmx/announced/{name}"
        self._first = (jax.process_index() if process is None else process) == 0
        self._clock = clock
        self._look = 0
        self._before: tuple[int, float] | None = None
        self._keys: list[str] = []
        self._promised = False

    def __call__(self, step: int, wanted: Callable[[], bool]) -> bool:
        """See the class; `wanted` is asked on process 0 alone, about a second before the step that it decides on."""
        if step < self._look:
            return False
        now, self._promised = self._promised, False
        key = f"{self._prefix}/{step}"
        if self._first:
            distance, then = self._distance(step), not now and wanted()
            self.tell(key, f"{distance} {int(then)}")
            self._keys.append(key)
            while len(self._keys) > _KEPT:
                self.forget(self._keys.pop(0))
        else:
            distance, then = (int(word) for word in self.hear(key).split())
        self._look, self._promised = step + distance, bool(then)
        return now

    def _distance(self, step: int) -> int:
        """Steps that take about LOOK_S."""
        before, self._before = self._before, (step, self._clock())
        if before is None or self._before[1] <= before[1]:
            return 1
        pace = (step - before[0]) / (self._before[1] - before[1])
        return min(max(round(LOOK_S * pace), 1), MOST_STEPS)

    # ---- the coordination service

    def tell(self, key: str, value: str) -> None:
        """Sets a key."""
        _client().key_value_set(key, value)

    def hear(self, key: str) -> str:
        """The value of a key, once it is set; raises what JAX raises where process 0 is gone or does not come to it."""
        return _client().blocking_key_value_get(key, 1000 * TIMEOUT_S)

    def forget(self, key: str) -> None:
        """Deletes a key."""
        _client().key_value_delete(key)


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client
