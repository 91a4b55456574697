import math

import numpy as np
import pytest
from scipy import stats

from lmx.review.arms import LEVEL, arms, holm, seeds_needed, welch


@pytest.mark.parametrize("seed", range(5))
def test_welch_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(0, 1, 4).tolist(), rng.normal(0.5, 3, 7).tolist()
    found, known = welch(first, second), stats.ttest_ind(first, second, equal_var=False)
    assert found is not None
    assert found.t == pytest.approx(known.statistic)
    assert found.p == pytest.approx(known.pvalue)
    assert found.df == pytest.approx(known.df)


def test_one_seed_says_nothing_and_equal_seeds_say_everything():
    assert welch([1.0], [2.0, 3.0]) is None
    assert welch([1.0, 1.0], [1.0, 1.0]).p == 1.0
    assert welch([1.0, 1.0], [2.0, 2.0]).p == 0.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@pytest.mark.parametrize(("effect", "sd"), [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0)])
def test_the_seeds_that_are_said_to_be_needed_find_the_difference_four_times_of_five(effect, sd):
    n = seeds_needed(effect, sd, sd)
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, sd, (4000, n)), rng.normal(effect, sd, (4000, n))
    found = np.mean(stats.ttest_ind(first, second, axis=1, equal_var=False).pvalue < LEVEL)
    assert 0.77 < found < 0.9


def test_no_difference_needs_no_number():
    assert seeds_needed(0.0, 1.0, 1.0) is None


def test_arms_group_over_seeds_and_tell_noise_from_difference():
    settings, results = [], []
    values = {"1e-3": [2.00, 2.02, 1.98], "3e-3": [2.01, 2.03, 1.99], "1e-1": [3.0, 3.05, None]}
    for rate, losses in values.items():
        for seed, loss in enumerate(losses):
            settings.append({"lr": rate, "trainer.seed": str(seed)})
            results.append(loss)
    found = arms(settings, results, seed_key="trainer.seed", lowest=True)
    assert [arm.setting["lr"] for arm in found] == ["1e-3", "3e-3", "1e-1"]
    best, near, far = found
    assert best.p is None
    assert near.p > LEVEL
    assert near.needed > 10
    assert far.p < LEVEL
    assert (far.needed, far.jobs, len(far.values)) == (0, 3, 2)
    assert math.isclose(best.sd, 0.02)
    assert arms(settings, results, seed_key="trainer.seed", lowest=False)[0].setting["lr"] == "1e-1"
