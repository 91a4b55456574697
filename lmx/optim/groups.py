"""Which parameters an optimizer treats how: groups by path, axes or kind, looked up in the `Param`s."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import NamedTuple

from lmx.optim.config import Optimizer
from lmx.optim.match import ByAxes, ByKind, ByPath
from lmx.params import Param, named_params
from lmx.types import Tree

ALL_OTHERS = "all others"


class Assignment(NamedTuple):
    """What one parameter gets.

    learning_rate   at the schedule's peak
    multiplier      learning_rate as a factor of the optimizer's
    """

    group: str
    rule: str
    learning_rate: float
    multiplier: float
    weight_decay: float


class Row(NamedTuple):
    """A line of the optimizer's table: the parameters that are treated alike."""

    group: str
    patterns: str
    tensors: int
    parameters: int
    rule: str
    learning_rate: float
    multiplier: float
    weight_decay: float


def kind(param: Param) -> str:
    """matrix, embedding (looked up by token or position), head (to the vocabulary), vector (scale, bias)."""
    if not param.inputs:
        return "vector"
    if param.is_matrix:
        return "matrix"
    return "embedding" if {"vocab", "position"} & set(param.inputs) else "head"


def matches(match: ByPath | ByAxes | ByKind, path: str, param: Param) -> bool:
    """Whether a parameter is one of those that `match` means."""
    if isinstance(match, ByPath):
        return any(fnmatchcase(path, pattern) for pattern in _patterns(match))
    if isinstance(match, ByAxes):
        return set(match.axes) <= set(param.axes)
    return match.kind == kind(param)


def assign(optimizer: Optimizer, specs: Tree) -> dict[str, Assignment]:
    """Path -> what that parameter gets: its rule's values, changed by the first group that matches.

    ValueError for a path or axis that matches nothing, and for a group whose parameters earlier ones all
    take. A `kind` may be empty: a model without biases is none the worse for a group of vectors.
    """
    params = named_params(specs)
    taken = {name: 0 for name in optimizer.groups}
    result = {}
    for path, param in params.items():
        rule = optimizer.rule(path, param)
        name = next((n for n, g in optimizer.groups.items() if matches(g.match, path, param)), None)
        factor, decay = 1.0, rule.weight_decay
        if name is not None:
            taken[name] += 1
            group = optimizer.groups[name]
            factor = group.learning_rate_multiplier
            decay = rule.weight_decay if group.weight_decay is None else group.weight_decay
        decay = decay if factor else 0.0
        rate = rule.learning_rate * factor
        result[path] = Assignment(name or ALL_OTHERS, rule.name, rate, rate / optimizer.learning_rate, decay)
    for name, group in optimizer.groups.items():
        _check_matches_something(f"optimizer.groups.{name}.match", group.match, params)
        if not taken[name] and not isinstance(group.match, ByKind):
            first = sorted({result[p].group for p, param in params.items() if matches(group.match, p, param)})
            raise ValueError(
                f"optimizer.groups.{name} has no effect: the groups before it ({', '.join(first)}) take all "
                f"of its parameters; put it before them, or remove them (~optimizer.groups.{first[0]})"
            )
    return result


def check_matches(where: str, matches_: list, specs: Tree) -> None:
    """ValueError when one of several matches (of the key `where`) means no parameter."""
    for i, match in enumerate(matches_):
        _check_matches_something(f"{where}.{i}", match, named_params(specs))


def _check_matches_something(where: str, match: ByPath | ByAxes | ByKind, params: dict[str, Param]) -> None:
    if isinstance(match, ByPath):
        for pattern in _patterns(match):
            if not any(fnmatchcase(path, pattern) for path in params):
                near = difflib.get_close_matches(pattern, params, n=3, cutoff=0.3) or list(params)[:3]
                more = f" and {len(params) - len(near)} more" if len(near) < len(params) else ""
                raise ValueError(
                    f"{where}.path={pattern} matches no parameter; there are {', '.join(near)}{more}"
                )
    elif isinstance(match, ByAxes) and not any(set(match.axes) <= set(p.axes) for p in params.values()):
        known = sorted({axis for p in params.values() for axis in p.axes})
        raise ValueError(
            f"{where}.axes=[{', '.join(match.axes)}] matches no parameter; their axes are {', '.join(known)}"
        )


def _patterns(match: ByPath) -> list[str]:
    return [match.path] if isinstance(match.path, str) else match.path


def _describe(match: ByPath | ByAxes | ByKind) -> str:
    if isinstance(match, ByPath):
        return ", ".join(_patterns(match))
    return f"axes {', '.join(match.axes)}" if isinstance(match, ByAxes) else f"kind {match.kind}"


def rows(optimizer: Optimizer, specs: Tree, assignment: dict[str, Assignment]) -> list[Row]:
    """The parameters that are treated alike, a row each: in the order of the groups, all others last."""
    params = named_params(specs)
    alike: dict[Assignment, list[str]] = {}
    for path, assigned in assignment.items():
        alike.setdefault(assigned, []).append(path)
    order = [*optimizer.groups, ALL_OTHERS]
    table = []
    for assigned, paths in sorted(alike.items(), key=lambda item: (order.index(item[0].group), item[0].rule)):
        group = optimizer.groups.get(assigned.group)
        kinds = ", ".join(sorted({kind(params[path]) for path in paths}))
        table.append(
            Row(
                group=assigned.group,
                patterns=_describe(group.match) if group else f"kind {kinds}",
                tensors=len(paths),
                parameters=sum(params[path].size for path in paths),
                rule=assigned.rule,
                learning_rate=assigned.learning_rate,
                multiplier=assigned.multiplier,
                weight_decay=assigned.weight_decay,
            )
        )
    return table
