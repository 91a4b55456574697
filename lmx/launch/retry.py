"""What happens after an attempt has ended: by its exit code, its progress, and two budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

DONE, FAILED, WRONG_REQUEST, PREEMPTED = 0, 1, 2, 75


class Result(NamedTuple):
    """How an attempt ended; `progressed`: whether it wrote a checkpoint newer than the one it began from."""

    exit_code: int
    progressed: bool


class Decision(NamedTuple):
    """`done`, `restart` or `give up`, and why in words."""

    action: Literal["done", "restart", "give up"]
    reason: str


def decide(results: Sequence[Result], *, max_failures: int, max_preemptions: int | None) -> Decision:
    """The decision after the attempts `results`, the last of which has just ended.

    Exit code 2 never restarts: the same request is wrong again. 75 restarts, and counts as a preemption; any other
    code counts as a failure; a preemption without a new checkpoint counts as a failure too, or a run that is
    preempted before its first checkpoint would go on for ever. `max_preemptions` None: no limit.
    """
    last = results[-1].exit_code
    if last == DONE:
        return Decision("done", "done")
    if last == WRONG_REQUEST:
        return Decision("give up", "the request is wrong (exit code 2); it would be wrong again")
    preempted = sum(r.exit_code == PREEMPTED for r in results)
    failed = sum(r.exit_code != PREEMPTED or not r.progressed for r in results)
    if failed > max_failures:
        vain = "" if last != PREEMPTED else " (preempted without a new checkpoint counts)"
        return Decision("give up", f"failure {failed}{vain}, launch.max_failures={max_failures}")
    if max_preemptions is not None and preempted > max_preemptions:
        return Decision("give up", f"preemption {preempted}, launch.max_preemptions={max_preemptions}")
    if last == PREEMPTED:
        return Decision("restart", f"preempted (time {preempted})")
    return Decision("restart", f"failed (failure {failed} of {max_failures} allowed)")
