"""What can go wrong on the way to a run, and the exit code of each: 2 wrong request, 1 failure, 75 resumable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

DONE, FAILED, WRONG_REQUEST, STOPPED = 0, 1, 2, 75

UNSET: Any = type("Unset", (), {"__repr__": lambda self: "UNSET", "__bool__": lambda self: False})()
"""Stands for a value that is not there (`None` is a value: `null`)."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration.

    key      full path, `model.n_layers`; empty where the problem belongs to no key
    message  what is wrong, in a sentence without the key
    value    the value found, or UNSET
    origin   where it was set: `conf/model/tiny.yaml:7` or `command line: model.n_layers=x`
    fix      what to paste instead: an override, or `FILE:LINE: key: value`; None where nothing certain is known
    kind     a short name of the sort of problem, for programs
    """

    key: str
    message: str
    value: Any = UNSET
    origin: str | None = None
    fix: str | None = None
    kind: str = "value"

    def with_origin(self, origin: str | None) -> Problem:
        """The same problem, said to come from `origin` unless it already says so."""
        return self if self.origin or not origin else replace(self, origin=origin)


class LmxError(Exception):
    """An error that a person can act upon; its text is shown alone, without a traceback."""

    exit_code = FAILED


class ConfigError(LmxError):
    """A configuration with problems: all of them, in `.problems`."""

    exit_code = WRONG_REQUEST

    def __init__(self, problems: Sequence[Problem], command: str = "") -> None:
        self.problems = list(problems)
        self.command = command
        super().__init__(self.problems, command)

    def __str__(self) -> str:
        return format_problems(self.problems, self.command)


class RequestError(LmxError, ValueError):
    """The request cannot be honoured as it was made: no such file, a run directory in use, ..."""

    exit_code = WRONG_REQUEST


class Resumable(LmxError):
    """The run stopped early, in good order; `lmx train resume=RUN` goes on with it."""

    exit_code = STOPPED


@contextmanager
def requests() -> Iterator[None]:
    """Turns a ValueError or a missing file inside the block into a RequestError.

    Wrap the building of models, data and optimizers with it: until training starts, such an error is the
    request's fault (exit code 2).
    """
    try:
        yield
    except LmxError:
        raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        name = f": {error.filename}" if error.filename else ""
        raise RequestError(f"{error.strerror or error}{name}") from error
    except ValueError as error:
        raise RequestError(str(error)) from error


def show_value(value: Any) -> str:
    """A value as a person writes it in YAML, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        plain = value and not value[0].isspace() and not value[-1].isspace() and "\n" not in value
        return value if plain else repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {show_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show_value(v) for v in value) + "]"
    return str(value)


_LONGEST = 2000
"""Characters of a message or a key: what a damaged file holds in place of them may have any length."""


def _shorten(text: str, limit: int = 72) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def format_problem(problem: Problem, *, bold: str = "", dim: str = "", green: str = "", end: str = "") -> str:
    """Three lines at most: key, value and origin; what is wrong; the fix."""
    head = f"{bold}{_shorten(problem.key, _LONGEST)}{end}" if problem.key else ""
    if problem.value is not UNSET and problem.key:
        head += f" = {_shorten(show_value(problem.value))}"
    if problem.origin:
        head += f"{'  ' if head else ''}{dim}({problem.origin}){end}"
    lines = [f"  {head}"] if head else []
    lines += [f"    {line}" for line in _shorten(problem.message, _LONGEST).splitlines()]
    if problem.fix:
        lines.append(f"    fix: {green}{problem.fix}{end}")
    return "\n".join(lines)


def format_problems(problems: Sequence[Problem], command: str = "", *, color: bool = False) -> str:
    """The report of a ConfigError: a count, then every problem."""
    style = {"bold": "\033[1m", "dim": "\033[2m", "green": "\033[32m", "end": "\033[0m"} if color else {}
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    title = f"{f'lmx {command}: ' if command else ''}{count} in the configuration"
    return "\n\n".join([title, *(format_problem(p, **style) for p in problems)])
