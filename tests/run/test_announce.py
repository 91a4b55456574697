"""Several processes with clocks of their own: all do it at the same steps, as the first one's clock says."""

from __future__ import annotations

import threading
import time
from typing import Any

from lmx.run.announce import Announced


class Service:
    """A coordination service of threads."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.changed = threading.Condition()


class OfThread(Announced):
    def __init__(self, service: Service, process: int, **given: Any) -> None:
        super().__init__("save", process=process, **given)
        self.service = service

    def tell(self, key: str, value: str) -> None:
        with self.service.changed:
            assert key not in self.service.values
            self.service.values[key] = value
            self.service.changed.notify_all()

    def hear(self, key: str) -> str:
        with self.service.changed:
            assert self.service.changed.wait_for(lambda: key in self.service.values, 20)
            return self.service.values[key]

    def forget(self, key: str) -> None:
        with self.service.changed:
            del self.service.values[key]


def test_all_save_after_the_same_steps() -> None:
    service, found, told = Service(), {}, []
    at = 0  # the step of the first process
    start, steps = 17, 60
    apart = threading.Barrier(3)  # a step is over when all have done it

    def process(number: int) -> None:
        nonlocal at
        announced = OfThread(service, number, clock=lambda: at * 0.3)
        asked = 0

        def wanted() -> bool:
            nonlocal asked
            asked += 1
            told.append(number)
            return asked % 4 == 0

        found[number] = []
        for step in range(start + 1, start + steps + 1):
            if number == 0:
                at = step
            time.sleep(0.0005 * number)
            if announced(step, wanted):
                found[number].append(step)
            apart.wait(20)

    threads = [threading.Thread(target=process, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == found[2]
    assert len(found[0]) >= 3
    assert set(told) == {0}  # the others' clocks are not asked
    assert len(service.values) <= 8


def test_fast_steps_are_rarely_announced() -> None:
    service, seconds = Service(), 0.0

    def clock() -> float:
        return seconds

    announced = OfThread(service, 0, clock=clock)
    keys = set()
    for step in range(1, 2001):
        seconds += 0.01
        announced(step, lambda: False)
        keys |= set(service.values)
    assert len(keys) < 60
