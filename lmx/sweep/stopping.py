"""Early stopping: which running jobs are not worth going on with, by what all jobs have reached at the same step."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Literal

from lmx.config.component import Component, field
from lmx.config.types import Count, Positive, Text

Course = Mapping[int, float]
"""Step -> value, of one job."""

Judge = Callable[[Mapping[int, Course], set[int]], list[int]]
"""(courses of all jobs that have begun, numbers of those that run) -> the running ones to end now."""


class Stopping(Component):
    """A rule for ending jobs early; they are recorded as PRUNED."""

    metric: Text = field("a number of metrics.jsonl", effect="bookkeeping")
    best_is: Literal["lowest", "highest"] = field("which value of it is good", effect="bookkeeping")

    def judge(self) -> Judge:
        """Judges the jobs of one sweep, called again and again while they run."""
        raise NotImplementedError

    def cost(self, value: float) -> float:
        """The value, or its negative, so that lower is better; what is not a number is the worst."""
        cost = value if self.best_is == "lowest" else -value
        return cost if math.isfinite(cost) else math.inf


class Median(Stopping):
    """A run ends when its best value so far is worse than the median of the others' means up to the same step.

    The rule of Golovin et al. 2017, "Google Vizier", section 3.2.
    """

    after: Count = field("steps before which no run is ended", unit="steps", effect="bookkeeping")
    at_least: Positive = field("other runs that must have come as far", effect="bookkeeping")

    def judge(self) -> Judge:
        """See the class."""
        return self._losing

    def _losing(self, courses: Mapping[int, Course], running: set[int]) -> list[int]:
        found = []
        for number in running:
            step = max(courses.get(number, {}), default=0)
            if not step or step < self.after:
                continue
            best = min(self.cost(value) for value in courses[number].values())
            means = [
                statistics.fmean(self.cost(v) for s, v in course.items() if s <= step)
                for other, course in courses.items()
                if other != number and max(course, default=0) >= step
            ]
            if len(means) >= self.at_least and best > statistics.median(means):
                found.append(number)
        return found


class Asha(Stopping):
    """At each rung a run goes on only among the best 1/`factor` of those that have come there by then, at least one.

    Asynchronous successive halving in its stopping form (Li et al. 2020, "A System for Massively Parallel
    Hyperparameter Tuning"): nobody waits for the others, so early runs are judged by few. A run is judged at a rung
    from when it comes there until it comes to the next: who comes later ends no one who has gone on.
    """

    first: Positive = field("the first judged step", unit="steps", effect="bookkeeping")
    factor: Positive = field("one in this many goes on", effect="bookkeeping")

    def judge(self) -> Judge:
        """See the class."""
        return _Rungs(self).losing


class _Rungs:
    """Who has come to which rung with what, in the order of the looks.

    A new driver of a sweep begins with an empty memory: it takes the rungs that runs have passed as they are.
    """

    def __init__(self, rule: Asha) -> None:
        self._rule = rule
        self._there: dict[int, dict[int, float]] = {}
        self._lost: set[int] = set()
        self._begun = False

    def losing(self, courses: Mapping[int, Course], running: set[int]) -> list[int]:
        """See `Judge`. What has lost runs on until its next checkpoint, but comes to no further rung."""
        if self._rule.factor < 2:
            return []
        rungs = self._rungs(courses)
        for rung, following in zip(rungs, [*rungs[1:], math.inf], strict=True):
            there, new = self._there.setdefault(rung, {}), set()
            for number, course in courses.items():
                came = min((step for step in course if step >= rung), default=None)
                if came is not None and number not in there and number not in self._lost:
                    # What a run had reached when it came to the rung: its value there, or the first one after it.
                    there[number] = self._rule.cost(course[came])
                    new.add(number)
            newest = {number for number in there if max(courses[number], default=0) < following}
            judged = (newest | new if self._begun else newest) & running
            self._lost |= {number for number in judged if self._loses(number, there)}
        self._begun = True
        return sorted(self._lost & running)

    def _rungs(self, courses: Mapping[int, Course]) -> list[int]:
        longest = max((max(course, default=0) for course in courses.values()), default=0)
        rungs = [self._rule.first]
        while rungs[-1] * self._rule.factor <= longest:
            rungs.append(rungs[-1] * self._rule.factor)
        return rungs

    def _loses(self, number: int, there: Mapping[int, float]) -> bool:
        kept = sorted(there.values())[max(1, len(there) // self._rule.factor) - 1]
        return len(there) >= self._rule.factor and there[number] > kept
