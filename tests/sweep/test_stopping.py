import math

import pytest

from lmx.sweep.stopping import Asha, Median

COURSES = {
    0: {10: 3.0, 20: 2.0, 30: 1.5},
    1: {10: 3.1, 20: 2.1, 30: 1.6},
    2: {10: 3.2, 20: 2.2},
    3: {10: 5.0, 20: 4.5},
    4: {10: 2.0},
}


def median(**changes):
    return Median(**{"metric": "eval/loss", "best_is": "lowest", "after": 0, "at_least": 3, **changes})


def asha(**changes):
    return Asha(**{"metric": "eval/loss", "best_is": "lowest", "first": 10, "factor": 2, **changes})


def test_median_ends_what_is_worse_than_half_at_the_same_step():
    assert median().losing(COURSES, {3, 4}) == [3]
    assert median().losing(COURSES, {4}) == []


def test_median_waits():
    assert median(after=21).losing(COURSES, {3}) == []
    assert median(at_least=4).losing(COURSES, {3}) == []


def test_highest_turns_the_order_around():
    assert median(best_is="highest", at_least=1).losing({0: {10: 0.9}, 1: {10: 0.1}}, {0, 1}) == [1]


def test_asha_by_hand():
    # rung 10: values 3.0 3.1 3.2 5.0 2.0, the best two (2.0, 3.0) go on; rung 20: 2.0 2.1 2.2 4.5, the best two
    assert asha().losing(COURSES, {0, 1, 2, 3, 4}) == [1, 2, 3]
    assert asha(first=1000).losing(COURSES, {0, 1, 2, 3, 4}) == []


@pytest.mark.parametrize("rule", [median(at_least=1), asha()])
def test_the_best_run_is_never_ended_and_nan_always_is(rule):
    courses = {n: {10: 1.0 + n, 20: 0.5 + n} for n in range(6)} | {6: {10: math.nan, 20: math.nan}}
    found = rule.losing(courses, set(courses))
    assert 0 not in found
    assert 6 in found
