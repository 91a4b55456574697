"""Exit codes and budgets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.launch.retry import Result, decide
from lmx.launch.target import Seen, Task


@pytest.mark.parametrize(
    ("codes", "action"),
    [
        ([0], "done"),
        ([2], "give up"),
        ([1], "restart"),
        ([1, 1], "restart"),
        ([1, 1, 1], "give up"),
        ([75] * 50, "restart"),
        ([75, 1, 75, 1, 75], "restart"),
        ([1, 75, 1, 1], "give up"),
        ([1, 2], "give up"),
        ([-9], "restart"),
    ],
)
def test_action(codes, action):
    assert decide([Result(c, True) for c in codes], max_failures=2, max_preemptions=None).action == action


def test_preemption_without_a_new_checkpoint_counts_as_a_failure():
    vain = [Result(75, False)] * 3
    assert decide(vain[:2], max_failures=2, max_preemptions=None).action == "restart"
    last = decide(vain, max_failures=2, max_preemptions=None)
    assert last.action == "give up"
    assert "without a new checkpoint" in last.reason


def test_budgets_are_apart():
    preempted = [Result(75, True)] * 3
    assert decide(preempted, max_failures=0, max_preemptions=3).action == "restart"
    assert decide(preempted, max_failures=0, max_preemptions=2).action == "give up"


@given(
    st.lists(st.builds(Result, st.sampled_from([1, 75, -9, 134]), st.booleans()), max_size=30),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_restarts_are_bounded(results, failures, preemptions):
    """Whatever happens, no more attempts are begun than both budgets allow."""
    begun = 1
    for i in range(len(results)):
        if decide(results[: i + 1], max_failures=failures, max_preemptions=preemptions).action != "restart":
            break
        begun += 1
    assert begun <= 1 + failures + preemptions


def ended(index, code, at, state="ended"):
    return Task(index, f"h{index}", state, code, at)


@pytest.mark.parametrize(
    ("tasks", "first", "code"),
    [
        ([ended(0, 0, 1.0), ended(1, 0, 2.0)], None, 0),
        ([ended(0, 1, 5.0), ended(1, 1, 4.0)], 1, 1),
        ([ended(0, 1, 4.0), ended(1, -9, 4.5)], 1, 1),  # a killed process is nobody's consequence
        ([ended(0, 134, 3.0), ended(1, 1, 4.0)], 1, 1),  # JAX aborts a process when another has died
        ([ended(0, 1, 4.0), ended(1, 1, 9.0, "lost")], 1, 1),
        ([ended(0, 75, 4.0), ended(1, 75, 4.1)], 0, 75),
        ([ended(0, 2, 4.0), ended(1, 1, 4.1)], 0, 2),
    ],
)
def test_first_error(tasks, first, code):
    seen = Seen(tuple(tasks))
    assert seen.exit_code == code
    assert (seen.first_error.index if seen.first_error else None) == first


def test_running_has_no_exit_code():
    assert Seen((Task(0, "h", "running"), ended(1, 1, 1.0))).exit_code is None
