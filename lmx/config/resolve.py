"""Interpolations: resolved leaf by leaf, so that every one that fails is reported with its key."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import (
    GrammarParseError,
    InterpolationKeyError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from lmx.config.errors import Problem, RequestError
from lmx.config.near import nearest, nearest_key
from lmx.config.resolvers import RESOLVERS

HOLE: Any = type("Hole", (), {"__repr__": lambda self: "?", "__deepcopy__": lambda self, memo: self})()
"""Stands in the plain tree for a value that could not be computed."""


class Resolved(NamedTuple):
    """The plain tree of a configuration.

    tree      dicts, lists and scalars; HOLE where a value is missing or cannot be computed
    raw       full path -> the interpolation that stood there
    problems  one for each HOLE, but for those that follow from another
    """

    tree: dict[str, Any]
    raw: dict[str, str]
    problems: list[Problem]


def resolve(cfg: DictConfig) -> Resolved:
    """Resolves every value of `cfg`; collects what is missing (`???`) or cannot be computed."""
    raw: dict[str, str] = {}
    problems: list[Problem] = []

    def visit(node: Any, key: str) -> Any:
        if node is None:
            return None
        try:
            if node._is_missing():
                problems.append(Problem(key, "must be given", value="???", kind="missing"))
                return HOLE
            if node._is_interpolation():
                raw[key] = str(node._value())
                node = node._dereference_node()
            if node._is_none():
                return None
        except InterpolationToMissingValueError:
            return HOLE
        except (OmegaConfBaseException, RecursionError) as error:
            problems.append(_interpolation_problem(key, raw.get(key, ""), error, cfg))
            return HOLE
        if isinstance(node, DictConfig):
            return {str(k): visit(node._get_node(k), f"{key}.{k}" if key else str(k)) for k in node}
        if isinstance(node, ListConfig):
            return [visit(node._get_node(i), f"{key}.{i}") for i in range(len(node))]
        return node._value()

    return Resolved(visit(cfg, ""), raw, problems)


def references(raw: str, key: str) -> list[str]:
    """Full paths of the keys that the interpolation `raw`, standing at `key`, reads directly."""
    found = []
    for reference in re.findall(r"\$\{\s*(\.*[A-Za-z_][\w.\[\]-]*)\s*\}", raw):
        dots = len(reference) - len(reference.lstrip("."))
        name = reference.lstrip(".")
        if dots:
            parents = key.split(".")
            name = ".".join([*parents[: max(len(parents) - dots, 0)], name])
        found.append(name)
    return found


def _interpolation_problem(key: str, raw: str, error: BaseException, cfg: DictConfig) -> Problem:
    if isinstance(error, RecursionError) or "ecursive" in str(error):
        return Problem(key, f"{raw} refers to itself, directly or in a circle", raw, kind="circle")
    if isinstance(error, InterpolationKeyError):
        gone = _first_absent(raw, key, cfg)
        if gone:
            paths = _paths(cfg)
            beside = [p.rpartition(".")[2] for p in paths if p.rpartition(".")[0] == gone.rpartition(".")[0]]
            near = nearest_key(gone, beside, paths)
            near = None if near == key else near  # it cannot refer to itself
            hint = f"; the nearest is {near}" if near else ""
            fix = f"{key}=${{{near}}}" if near and re.fullmatch(r"\$\{[^{}:]*\}", raw) else None
            message = f"{raw} refers to {gone}, which does not exist{hint}"
            return Problem(key, message, raw, fix=f"'{fix}'" if fix else None, kind="interpolation")
    if isinstance(error, UnsupportedInterpolationType):
        name = raw.partition("${")[2].partition(":")[0]
        near = nearest(name, [*RESOLVERS, "oc.env", "oc.select", "now", "hydra"])
        hint = f"; the nearest is {near}" if near else ""
        known = ", ".join(RESOLVERS)
        return Problem(
            key,
            f"{raw} uses {name}, which is no known function{hint}; there are {known}",
            raw,
            kind="interpolation",
        )
    if isinstance(error, GrammarParseError):
        return Problem(
            key,
            f"{raw} cannot be read; an interpolation is ${{key}} or ${{function:a,b}}",
            raw,
            kind="interpolation",
        )
    inner = error.__cause__ or error.__context__ or error
    if isinstance(inner, RequestError):  # what it read is wrong, whoever reads it: one problem for all
        return Problem(next(iter(references(raw, key)), key), str(inner), kind="request")
    reason = str(inner.args[0] if isinstance(inner, KeyError) else inner).strip().splitlines()[0]
    return Problem(key, f"{raw}: {reason}", raw, kind="computed")


def _first_absent(raw: str, key: str, cfg: DictConfig) -> str | None:
    paths = set(_paths(cfg))
    return next((r for r in references(raw, key) if r not in paths), None)


def _paths(cfg: Any, prefix: str = "") -> list[str]:
    found: list[str] = []
    if not isinstance(cfg, DictConfig) or cfg._is_none() or cfg._is_missing() or cfg._is_interpolation():
        return found
    for name in cfg:
        path = f"{prefix}{name}"
        found.append(path)
        found += _paths(cfg._get_node(name), f"{path}.")
    return found
