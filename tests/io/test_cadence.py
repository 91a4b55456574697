"""When a run saves: by steps, by the clock, and again after a failure."""

from __future__ import annotations

from lmx.io.cadence import Cadence
from tests.io.states import config


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def saves(cadence: Cadence, clock: Clock, steps: int, seconds: float) -> list[int]:
    """Steps that are saved, each step taking so long."""
    found = []
    for step in range(1, steps + 1):
        clock.now += seconds
        if cadence.due(step):
            assert cadence.due(step)  # the same answer
            found.append(step)
            cadence.began()
    return found


def test_by_time_alone_and_with_steps() -> None:
    clock = Clock()
    assert saves(Cadence(config(every=None, every_minutes=1), clock=clock), clock, 30, 7.0) == [9, 18, 27]
    clock = Clock()
    found = saves(Cadence(config(every=10, every_minutes=1), clock=clock), clock, 30, 7.0)
    assert found == [9, 10, 19, 20, 29, 30]
    clock = Clock()
    assert saves(Cadence(config(every=10, every_minutes=1), clock=clock), clock, 30, 0.1) == [10, 20, 30]
    clock = Clock()
    assert saves(Cadence(config(every=None), clock=clock), clock, 30, 100.0) == []


def test_permanent_steps_are_saved() -> None:
    clock = Clock()
    assert saves(Cadence(config(every=10, keep_every=4), clock=clock), clock, 12, 1.0) == [4, 8, 10, 12]


def test_an_answer_does_not_change_when_asked_again() -> None:
    clock = Clock()
    cadence = Cadence(config(every=None, every_minutes=1), clock=clock)
    assert not cadence.due(1)
    clock.now = 100.0
    assert not cadence.due(1)
    assert cadence.due(2)
    assert not cadence.due(1)
    assert cadence.due(2)


def test_after_a_failure() -> None:
    clock = Clock()
    cadence = Cadence(config(every=1000, retry_after=5), clock=clock)
    cadence.failed()
    assert not cadence.due(1)
    clock.now = 6.0
    assert cadence.due(2)
    cadence.began()
    assert not cadence.due(3)
