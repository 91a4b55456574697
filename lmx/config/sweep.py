"""The points of a sweep, all validated before the first of them starts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import OmegaConf

from lmx.config.compose import Composed, Composer
from lmx.config.errors import Problem
from lmx.config.overrides import parse_overrides, sort_overrides

_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"

_PARAMS = "hydra.sweeper.params"


class Point(NamedTuple):
    """One job of a sweep: its overrides, and the configuration that they make."""

    overrides: list[str]
    composed: Composed


class Sweep(NamedTuple):
    """Points that hold, and every problem of those that do not, each named once.

    complete  whether `points` are all the jobs; a sweeper that chooses as it goes is tried at its corners
    """

    points: list[Point]
    problems: list[Problem]
    complete: bool


def check_sweep(composer: Composer, overrides: Sequence[str]) -> Sweep:
    """Validates every point of the sweep that `overrides` describe."""
    parsed, problems = parse_overrides(composer.tree, overrides)
    plain_hydra = [o.input_line or "" for o in parsed if o.is_hydra_override() and not o.is_sweep_override()]
    base = composer.compose(())
    if wrong := _params_of_basic(parsed, base.cfg):
        return Sweep([], [*problems, *wrong], False)
    problems += [_sweeps_hydra(o) for o in parsed if o.is_hydra_override() and o.is_sweep_override()]
    kinds, _ = sort_overrides(composer.tree, [o for o in parsed if not o.is_sweep_override()], base.choices)
    composition = composer.compose([o.input_line or "" for o in [*kinds.groups, *kinds.hydra]])
    if composition.cfg is None:
        return Sweep([], [*problems, *composition.problems], False)
    sweeper = OmegaConf.to_container(composition.cfg.hydra.sweeper, resolve=False)
    assert isinstance(sweeper, dict)
    params, wrong = _params(composer, sweeper.get("params"))
    problems += wrong
    job = [*params, *(o for o in parsed if not o.is_hydra_override())]
    basic = sweeper.get("_target_") == _BASIC
    points: list[Point] = []
    found: dict[tuple[str, str, str], list[Any]] = {}
    lists = list(_product(job) if basic else _corners(job))
    for number, lines in enumerate(lists):
        composed, wrong = composer.check([*lines, *plain_hydra], {"num": number, "id": str(number)})
        if composed is not None:
            points.append(Point(lines, replace(composed, overrides=lines)))
        for problem in wrong:
            found.setdefault((problem.key, problem.message, str(problem.value)), [problem, 0])[1] += 1
    for problem, times in found.values():
        at_some = f" (in {times} of {len(lists)} points)" if times < len(lists) else ""
        problems.append(replace(problem, message=problem.message + at_some))
    return Sweep(points, problems, basic)


def _params_of_basic(overrides: Sequence[Override], base: Any) -> list[Problem]:
    """Hydra's own sweeper has no parameters to begin with, and cannot be given any on the command line."""
    sweeper = None if base is None else OmegaConf.select(base, "hydra.sweeper._target_")
    if sweeper != _BASIC or any(o.key_or_group == "hydra/sweeper" for o in overrides):
        return []
    found = []
    for override in overrides:
        key, line = override.get_key_element(), override.input_line or ""
        if key.removeprefix(_PARAMS)[:1] not in ("", ".") or not key.startswith(_PARAMS):
            continue
        value = line.partition("=")[2]
        parts = override.value() if key == _PARAMS else {key.removeprefix(f"{_PARAMS}."): value.strip("\"'")}
        fix = (
            " ".join(f"{name}={swept}" for name, swept in parts.items()) if isinstance(parts, dict) else None
        )
        message = "Hydra's own sweeper takes these from a YAML alone; here sweep the keys themselves"
        found.append(Problem(key, message, value, f"command line: {line}", fix, "sweep"))
    return found


def _sweeps_hydra(override: Override) -> Problem:
    message = "Hydra's own configuration cannot be swept; a text with commas needs quotes"
    line = override.input_line or ""
    key, _, value = line.partition("=")
    return Problem(key, message, value, f"command line: {line}", f"'{key}=\"{value}\"'", "sweep")


def _params(composer: Composer, params: Any) -> tuple[list[Override], list[Problem]]:
    """`hydra.sweeper.params`, written as `key: values`, as overrides."""
    lines = [
        f"{key}={value}" for key, value in (params or {}).items() if isinstance(value, str | int | float)
    ]
    return parse_overrides(composer.tree, lines)


def _values(override: Override) -> list[str]:
    """The override's points: all of a list, both ends of an interval, the override itself where it sweeps nothing."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"] if not override.is_delete() else [key]
    if override.is_discrete_sweep():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    value = override.value()
    if isinstance(value, IntervalSweep | RangeSweep):
        end = value.end if isinstance(value, IntervalSweep) else value.stop
        return [f"{key}={value.start}", f"{key}={end}"]
    return []


def _by_key(overrides: Sequence[Override]) -> list[list[str]]:
    """The points of each key; of several overrides of one key the last counts."""
    return list({o.get_key_element(): _values(o) for o in overrides}.values())


def _product(overrides: Sequence[Override]) -> Iterator[list[str]]:
    for choice in itertools.product(*_by_key(overrides)):
        yield list(choice)


def _corners(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Each value of each key once, the other keys at their first."""
    lists = [values for values in _by_key(overrides) if values]
    first = [values[0] for values in lists]
    yield first
    for index, values in enumerate(lists):
        for value in values[1:]:
            yield [*first[:index], value, *first[index + 1 :]]
