"""The loop over steps: keeps the device busy, reads results one step late, and stops where it should.

While step n computes, the host reads the metrics of step n-1 and lays batch n+1 on the devices; nothing in
between waits for the device. Evaluation, saving and sampling happen between steps and are not counted in the
step time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from lmx.types import Batch, TrainState


class Diverged(RuntimeError):
    """Too many updates in a row had to be skipped."""


class Timing(NamedTuple):
    """Seconds of every measured step, in order, without the steps around evaluations and saves."""

    step_times: list[float]
    first_step_at: float | None


class Events(NamedTuple):
    """What the loop calls, each between two steps.

    report(step, metrics, step_time)   metrics on the host; step_time None where it was not measured
    due(step) -> bool                  whether `between` has work after this step
    between(step, state, metrics)      evaluation, saving, sampling; metrics of that step, on the host
    stop() -> str | None               why to stop now, looked at after every step
    """

    report: Callable[[int, dict[str, Any], float | None], None]
    due: Callable[[int], bool]
    between: Callable[[int, TrainState, dict[str, Any]], None]
    stop: Callable[[], str | None]


class Finished(NamedTuple):
    """Where the loop ended, and why it did before the last step (None: it did not)."""

    state: TrainState
    step: int
    stopped: str | None
    timing: Timing


def _queue(batches: Iterator[Batch], ahead: int) -> Iterator[Batch]:
    """Batches laid on the devices `ahead` steps before they are used."""
    ready: deque[Batch] = deque()
    for batch in batches:
        ready.append(batch)
        if len(ready) > ahead:
            yield ready.popleft()
    yield from ready


def run_steps(
    step_fn: Callable[[TrainState, Batch, int], tuple[TrainState, dict[str, Any]]],
    state: TrainState,
    batches: Iterator[Batch],
    *,
    start: int,
    end: int,
    prefetch: int,
    max_skipped: int,
    events: Events,
) -> Finished:
    """Steps `start` + 1 to `end`, or until `events.stop` gives a reason; `step_fn` is told the step's number.

    Raises Diverged after `max_skipped` updates in a row whose loss or gradient was not finite.
    """
    times: list[float] = []
    first_step_at: float | None = None
    pending: tuple[int, dict[str, Any]] | None = None
    clock: float | None = None  # when the step before the pending one was seen to be done

    def read() -> dict[str, Any]:
        """Waits for the pending step and reports it."""
        nonlocal pending, clock, first_step_at
        assert pending is not None
        step, on_device = pending
        metrics = jax.device_get(on_device)
        now = time.perf_counter()
        step_time = None if clock is None else now - clock
        first_step_at = first_step_at or now
        clock, pending = now, None
        if step_time is not None:
            times.append(step_time)
        events.report(step, metrics, step_time)
        if metrics["skipped_run"] >= max_skipped:
            raise Diverged(
                f"step {step}: the loss or a gradient was not finite in {int(metrics['skipped_run'])} updates in a "
                f"row (trainer.max_skipped={max_skipped}); the parameters are those before them. "
                "A lower optimizer.learning_rate or a longer schedule.warmup may help"
            )
        return metrics

    step, stopped = start, None
    queue = _queue(batches, prefetch)
    while step < end and stopped is None:
        batch = next(queue)
        state, metrics = step_fn(state, batch, step + 1)
        if pending is not None:
            read()
        step += 1
        pending = (step, metrics)
        stopped = events.stop()
        if events.due(step) or stopped is not None or step == end:
            events.between(step, state, read())
            clock = None
    return Finished(state, step, stopped, Timing(times, first_step_at))
