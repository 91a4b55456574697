"""Arms of a sweep: what the jobs of one setting and several seeds reached, and which differences are more than noise.

The noise is the spread over seeds. Two arms are compared by Welch's t-test (unequal variances), each against the best
one, and the p-values are corrected for their number by Holm's method. How many seeds would be needed follows from the
difference and the spreads that were seen, for a test at the same level with 80% power; both are estimates from few
seeds themselves.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

LEVEL, POWER = 0.05, 0.8
_MOST = 100_000


class Arm(NamedTuple):
    """The jobs of one setting.

    setting   key -> value
    values    a result a seed, of the jobs that are done
    mean, sd  None where there is no value, or only one
    p         corrected p-value of the difference from the best arm; None for that arm, or with less than two seeds
    needed    further seeds in each of both arms that would probably tell them apart; 0: told apart; None: unknown
    """

    setting: dict[str, str]
    jobs: int
    values: list[float]
    mean: float | None
    sd: float | None
    p: float | None
    needed: int | None


class Test(NamedTuple):
    """Welch's t, its degrees of freedom, and the two-sided p-value."""

    t: float
    df: float
    p: float


def welch(first: Sequence[float], second: Sequence[float]) -> Test | None:
    """The t-test of two means with unequal variances (Welch 1947); None with less than two values on a side."""
    from scipy.special import stdtr

    if len(first) < 2 or len(second) < 2:
        return None
    a, b = statistics.variance(first) / len(first), statistics.variance(second) / len(second)
    difference = statistics.fmean(first) - statistics.fmean(second)
    if a + b == 0.0:
        return Test(
            math.copysign(math.inf, difference) if difference else 0.0, math.inf, float(difference == 0.0)
        )
    t = difference / math.sqrt(a + b)
    df = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    return Test(t, df, float(2.0 * stdtr(df, -abs(t))))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the same order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def seeds_needed(difference: float, first_sd: float, second_sd: float, *, level: float = LEVEL) -> int | None:
    """Seeds in each of two arms with which a test at `level` finds this difference with 80% power.

    None where no number would do (no difference), or it is beyond reason.
    """
    from scipy.special import stdtrit

    variance = first_sd**2 + second_sd**2
    if difference == 0.0:
        return None
    if variance == 0.0:
        return 2
    n = 2
    while n <= _MOST:
        df = max(1.0, (n - 1) * variance**2 / (first_sd**4 + second_sd**4))
        enough = (stdtrit(df, 1.0 - level / 2.0) + stdtrit(df, POWER)) ** 2 * variance / difference**2
        if enough <= n:
            return n
        n = max(n + 1, min(math.ceil(enough), 2 * n) if enough > 4 * n else n + 1)
    return None


def arms(
    settings: Sequence[Mapping[str, str]], results: Sequence[float | None], *, seed_key: str, lowest: bool
) -> list[Arm]:
    """The arms of jobs, the best first: jobs whose settings differ in the seed alone are one arm."""
    groups: dict[tuple[tuple[str, str], ...], list[float | None]] = {}
    for setting, result in zip(settings, results, strict=True):
        key = tuple((name, value) for name, value in setting.items() if name != seed_key)
        groups.setdefault(key, []).append(result)
    found = []
    for key, all_values in groups.items():
        values = [value for value in all_values if value is not None and math.isfinite(value)]
        mean = statistics.fmean(values) if values else None
        sd = statistics.stdev(values) if len(values) > 1 else None
        found.append(Arm(dict(key), len(all_values), values, mean, sd, None, None))
    sign = 1.0 if lowest else -1.0
    found.sort(key=lambda arm: (arm.mean is None, sign * (arm.mean or 0.0)))
    return _compared(found)


def _compared(found: list[Arm]) -> list[Arm]:
    """The arms with p-values against the first one."""
    if not found or found[0].mean is None:
        return found
    best = found[0]
    tests = {
        i: test for i, arm in enumerate(found[1:], 1) if (test := welch(arm.values, best.values)) is not None
    }
    corrected = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    for i, p in corrected.items():
        arm = found[i]
        assert arm.mean is not None and best.mean is not None  # noqa: PT018
        needed: int | None = 0
        if p >= LEVEL:
            whole = seeds_needed(
                arm.mean - best.mean, arm.sd or 0.0, best.sd or 0.0, level=LEVEL / len(tests)
            )
            needed = None if whole is None else max(1, whole - min(len(arm.values), len(best.values)))
        found[i] = arm._replace(p=p, needed=needed)
    return found
