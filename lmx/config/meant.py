"""Words that were no override, followed to what they would be if they were: is the fix itself refused?"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace

from lmx.config.errors import Problem
from lmx.config.origins import command_line


def followed(problems: Sequence[Problem], check: Callable[[str], list[Problem]]) -> list[Problem]:
    """The problems; where a fix that is an override would be refused in turn, with what is wrong with it and its fix.

    `--steps 100` is not one key's name with too many dashes alone: `steps=100` would be refused too. `check` gives
    what is wrong with the request when an override is added.
    """
    return [_followed(problem, check) for problem in problems]


def _followed(problem: Problem, check: Callable[[str], list[Problem]]) -> Problem:
    words = shlex.split(problem.fix) if problem.kind == "syntax" and problem.fix else []
    if len(words) != 1 or words[0].startswith("-"):
        return problem
    again = next((found for found in check(words[0]) if found.origin == command_line(words[0])), None)
    if again is None:
        return problem
    name = again.key or words[0]
    return replace(problem, message=f"{problem.message}; {name}: {again.message}", fix=again.fix)
