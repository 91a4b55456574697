"""Early stopping: which running jobs are not worth going on with, by what all jobs have reached at the same step."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Literal

from lmx.config.component import Component, field
from lmx.config.types import Count, Positive, Text

Course = Mapping[int, float]
"""Step -> value, of one job."""


class Stopping(Component):
    """A rule for ending jobs early; they are recorded as PRUNED."""

    metric: Text = field("a number of metrics.jsonl", effect="bookkeeping")
    best_is: Literal["lowest", "highest"] = field("which value of it is good", effect="bookkeeping")

    def losing(self, courses: Mapping[int, Course], running: set[int]) -> list[int]:
        """The numbers of running jobs to end, given the courses of all jobs that have begun."""
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

    def losing(self, courses: Mapping[int, Course], running: set[int]) -> list[int]:
        """See the class."""
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
    """At each rung a run goes on only among the best 1/`factor` of those that came to it (at least one).

    Asynchronous successive halving in its stopping form (Li et al. 2020, "A System for Massively Parallel
    Hyperparameter Tuning"): nobody waits for the others, so early runs are judged by few.
    """

    first: Positive = field("the first judged step", unit="steps", effect="bookkeeping")
    factor: Positive = field("one in this many goes on", effect="bookkeeping")

    def losing(self, courses: Mapping[int, Course], running: set[int]) -> list[int]:
        """See the class."""
        if self.factor < 2:
            return []
        found: set[int] = set()
        rung, longest = self.first, max((max(c, default=0) for c in courses.values()), default=0)
        while rung <= longest:
            # What a run had reached when it came to the rung: its value there, or the first one after it.
            at = {
                number: self.cost(course[min(step for step in course if step >= rung)])
                for number, course in courses.items()
                if any(step >= rung for step in course)
            }
            keep = max(1, len(at) // self.factor)
            if len(at) >= self.factor:
                worst_kept = sorted(at.values())[keep - 1]
                found |= {number for number in running if at.get(number, -math.inf) > worst_kept}
            rung *= self.factor
        return sorted(found)
