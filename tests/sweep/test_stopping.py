import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.sweep.early import losing_of, never_judged
from lmx.sweep.stopping import Asha, Median
from tests.sweep.support import make_sweep

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
    assert median().judge()(COURSES, {3, 4}) == [3]
    assert median().judge()(COURSES, {4}) == []


def test_median_waits():
    assert median(after=21).judge()(COURSES, {3}) == []
    assert median(at_least=4).judge()(COURSES, {3}) == []


def test_highest_turns_the_order_around():
    assert median(best_is="highest", at_least=1).judge()({0: {10: 0.9}, 1: {10: 0.1}}, {0, 1}) == [1]


def test_asha_by_hand():
    judge = asha().judge()
    everyone = {0, 1, 2, 3, 4}
    # the first comes to rung 10 alone; of two the better one goes on, of three the best one
    assert judge({0: {10: 3.0}}, everyone) == []
    assert judge({0: {10: 3.0}, 1: {10: 3.1}}, everyone) == [1]
    assert judge({0: {10: 3.0, 20: 2.0}, 1: {10: 3.1}, 2: {10: 2.9}}, everyone) == [1]
    # rung 20: 0 is there with 2.0; 1 has lost, and is not counted there though it has got so far meanwhile
    later = {0: {10: 3.0, 20: 2.0}, 1: {10: 3.1, 20: 1.0}, 2: {10: 2.9, 20: 2.2}}
    assert judge(later, everyone) == [1, 2]
    assert judge(later, {0}) == []
    assert asha(first=1000).judge()(COURSES, everyone) == []


def test_asha_ends_no_run_for_what_others_do_where_it_has_been():
    judge = asha().judge()
    courses = {0: {10: 3.59, 20: 3.6, 40: 3.1, 80: 2.5}}
    judge(courses, {0, 1, 2})
    courses |= {1: {10: 3.5}, 2: {10: 3.4}}
    assert judge(courses, {0, 1, 2}) == [1]
    # nor does a driver that begins in the middle
    assert 0 not in asha().judge()(courses, {0, 1, 2})


@given(st.data())
def test_asha_always_leaves_one(data):
    judge, courses, running = asha().judge(), {n: {} for n in range(4)}, set(range(4))
    for _ in range(data.draw(st.integers(1, 30))):
        number = data.draw(st.sampled_from(range(4)))
        if number in running:
            step = max(courses[number], default=0) + 10
            courses[number][step] = data.draw(st.floats(0, 5))
        if data.draw(st.booleans()):
            lost = judge(courses, running)
            running -= set(lost) if data.draw(st.booleans()) else set()  # it ends at its next checkpoint
    assert running - set(judge(courses, running))


@pytest.mark.parametrize("rule", [median(at_least=1), asha()])
def test_the_best_run_is_never_ended_and_nan_always_is(rule):
    courses = {n: {10: 1.0 + n, 20: 0.5 + n} for n in range(6)} | {6: {10: math.nan, 20: math.nan}}
    found = rule.judge()(courses, set(courses))
    assert 0 not in found
    assert 6 in found


@pytest.mark.parametrize(
    ("overrides", "metric", "fix"),
    [
        (["trainer.eval_every=null"], "eval/loss", "trainer.eval_every=10"),
        (["trainer.eval_every=100"], "eval/loss", "trainer.eval_every=10"),
        (["trainer.eval_every=null"], "loss", None),
        (["checkpoint.every=100"], "eval/loss", "checkpoint.every=10"),
        (["checkpoint.every=null"], "loss", "checkpoint.every=10"),
        (["checkpoint.every=null", "checkpoint.every_minutes=1"], "loss", None),
        (["checkpoint.every=null", "checkpoint.keep_every=50"], "loss", None),
        ([], "eval/loss", None),
    ],
)
def test_a_sweep_in_which_nothing_could_end_early_is_refused(tmp_path, overrides, metric, fix):
    base = ["trainer.steps=100", "trainer.eval_every=50", "checkpoint.every=20"]
    job = make_sweep(tmp_path / "s", [*base, *overrides]).jobs[0]
    said = never_judged(median(metric=metric), job.config)
    assert (said is None) == (fix is None)
    assert fix is None or said.endswith(f"; {fix}")


@pytest.mark.parametrize(("metric", "told"), [("eval/loss", 0), ("nope", 1)])
def test_a_metric_that_no_run_writes_is_told_once(tmp_path, monkeypatch, metric, told):
    monkeypatch.setattr("lmx.sweep.early._JUDGED_EVERY", 0.0)
    plan, said = make_sweep(tmp_path, ["model=tiny"]), []
    rule = {"_target_": "lmx.sweep.Median", "metric": metric, "best_is": "lowest", "after": 0, "at_least": 3}
    losing = losing_of(tmp_path, plan._replace(settings={"stopping": rule}), said.append)
    running = SimpleNamespace(active=lambda: [0])
    assert list(losing(running)) == []
    (tmp_path / "0").mkdir()
    (tmp_path / "0/metrics.jsonl").write_text(
        '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0, "eval/loss": 1.5}\n'
    )
    losing(running)
    losing(running)
    assert len(said) == told
    assert all("stopping.metric=nope: job 0 writes no such number" in line for line in said)
