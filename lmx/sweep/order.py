"""The order of a sweep's jobs: those with the same compiled programs after one another, on the same pod."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from lmx.config.schema import flatten
from lmx.sweep.plan import Job

Program = tuple[str, str]
"""What jobs with the same compiled programs have in common: the shapes, and all that is compiled in."""

_SHAPE = ("model.", "mesh.", "kernels.", "precision.", "xla.", "trainer.")
_PROGRAM = (*_SHAPE, "optimizer.", "schedule.", "data.")
_NUMBERS = ("trainer.seed", "data.seed")
"""Keys that a compiled program takes as numbers."""


def program_of(job: Job) -> Program:
    """What jobs with the same compiled programs have in common: the shapes, and all that is compiled in."""
    flat = {key: value for key, value in flatten(job.config).items() if key not in _NUMBERS}
    shape, whole = (
        hashlib.sha256(
            "\n".join(
                sorted(f"{key}={value}" for key, value in flat.items() if key.startswith(keys))
            ).encode()
        ).hexdigest()[:12]
        for keys in (_SHAPE, _PROGRAM)
    )
    return shape, whole


def program_order(jobs: Sequence[Job]) -> list[int]:
    """Numbers of jobs, those that share compiled programs after one another, in the order of the first of them."""
    first: dict[str, int] = {}
    for job in jobs:
        for key in program_of(job):
            first.setdefault(key, job.number)
    place = lambda job: (*(first[key] for key in program_of(job)), job.number)
    return [job.number for job in sorted(jobs, key=place)]


def nearest(
    jobs: Sequence[int], programs: Mapping[int, Program], before: Program | None, elsewhere: Sequence[Program]
) -> int | None:
    """The job for a pod that ran `before`: one with its programs, else one whose programs no other pod has.

    `elsewhere`: what the other pods ran last. None where there is no job.
    """

    def alike(one: Program, other: Program) -> int:
        return sum(a == b for a, b in zip(one, other, strict=True))

    def strangeness(number: int) -> int:
        own = alike(programs[number], before) if before is not None else 0
        return 2 - own if own else 2 + max((alike(programs[number], other) for other in elsewhere), default=0)

    return min(jobs, key=strangeness, default=None)
