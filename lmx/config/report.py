"""Raw problems made useful: origin, nearest key, a fix that was tried, and none that only follows from another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lmx.config.component import Component, Config
from lmx.config.errors import UNSET, Problem
from lmx.config.findings import (
    Context,
    Findings,
    from_command_line,
    nearest_known,
    override_line,
    value_of_files,
)
from lmx.config.fixes import without_removal
from lmx.config.groups import Composition
from lmx.config.near import nearest
from lmx.config.origins import Origins, command_line, origin_of
from lmx.config.overrides import Sorted
from lmx.config.resolve import Resolved, references
from lmx.config.schema import alternatives, known_keys, pick, spot_of
from lmx.config.unknown_keys import unknown_key
from lmx.config.wrong_values import failed_formula, missing_value, wrong_target, wrong_value


def explain(
    found: Findings,
    problems: Sequence[Problem],
    resolved: Resolved,
    composition: Composition,
    kinds: Sorted,
    origins: Origins,
) -> list[Problem]:
    """The problems as a person should see them."""
    context = Context(found, resolved, composition, kinds, origins, known_keys(found.schema, resolved.tree))
    kept = [p for p in problems if not _follows(context, p, problems)]
    return [_explain(context, problem) for problem in _misnamed(context, kept or problems)]


def _misnamed(context: Context, problems: Sequence[Problem]) -> list[Problem]:
    """The problems; what a new entry of a mapping lacks is one, where a file's entry is called nearly the same."""
    found: list[Problem] = []
    for problem in problems:
        entry = problem.key.rpartition(".")[0]
        whole, _, name = entry.rpartition(".")
        there = value_of_files(context, whole) if whole and problem.kind == "missing" else UNSET
        given = [o.input_line or "" for o in context.kinds.values if o.key_or_group.startswith(f"{entry}.")]
        near = nearest(name, there) if isinstance(there, Mapping) and name not in there and given else None
        if near is None:
            found.append(problem)
            continue
        if any(told.key == entry for told in found):
            continue
        meant = f"{whole}.{near}"
        message = f"there is no {name} in {whole}, and a new one must be given whole; the nearest is {meant}"
        fix = given[-1].lstrip("+").replace(entry, meant, 1)
        found.append(Problem(entry, message, origin=command_line(given[-1]), fix=fix, kind="entry"))
    return found


def _follows(context: Context, problem: Problem, problems: Sequence[Problem]) -> bool:
    """Whether a problem is only a consequence of another, or of a choice that could not be followed."""
    root = problem.key.split(".")[0]
    if problem.kind in ("unknown_key", "nothing", "inside_value"):
        for group, taken in context.found.dropped.items():
            inside = problem.key == group or problem.key.startswith(f"{group}.")
            everywhere = group == "experiment" and _is_polymorphic(context.found.schema, root)
            if taken is None and (inside or everywhere):
                return True
    others = {p.key for p in problems if p is not problem and p.kind != "circle"}
    if problem.kind in ("missing", "unknown_key", "value") and any(
        _target_wrong(p, problem.key) for p in problems
    ):
        return True
    raw = context.resolved.raw.get(problem.key)
    choice = re.fullmatch(r"\$\{hydra:runtime\.choices\.([\w/]+)\}", raw or "")
    if choice and choice[1].replace("/", ".") in others:
        return True
    return bool(raw) and any(reference in others for reference in references(raw or "", problem.key))


def _target_wrong(other: Problem, key: str) -> bool:
    node = other.key.removesuffix("._target_")
    return other.kind in ("target", "module") and key != other.key and key.startswith(f"{node}.")


def _is_polymorphic(schema: type[Config], root: str) -> bool:
    spot = spot_of(schema, root)
    return spot is not None and any(
        isinstance(part, type) and issubclass(part, Component) for part in alternatives(spot.annotation)
    )


def _explain(context: Context, problem: Problem) -> Problem:
    origin = problem.origin or _origin(context, problem)
    if origin:
        problem = problem.with_origin(origin)
    if problem.kind in ("unknown_key", "inside_value"):
        return unknown_key(context, problem)
    if problem.kind == "nothing":
        near = nearest_known(context, problem.key)
        return replace(problem, message=problem.message + (f"; the nearest is {near}" if near else ""))
    if problem.kind == "target":
        return wrong_target(context, problem)
    if problem.kind == "missing":
        return missing_value(context, problem)
    if problem.kind == "computed":
        return failed_formula(context, problem)
    if problem.kind in ("interpolation", "circle") and not problem.fix and from_command_line(problem):
        before = value_of_files(context, problem.key)
        return (
            problem if before is UNSET else replace(problem, fix=override_line(context, problem.key, before))
        )
    if problem.kind in ("interpolation", "circle", "present", "entry", "override", "module", "fault"):
        return problem
    if problem.kind == "contradiction":
        value = pick(context.plain, problem.key)
        if value_of_files(context, problem.key) is UNSET:
            problem = replace(problem, fix=without_removal(problem.fix, problem.key))
        return replace(problem, value=value if not isinstance(value, Mapping) else UNSET)
    return wrong_value(context, problem)


def _origin(context: Context, problem: Problem) -> str | None:
    if problem.kind == "missing":
        for override in reversed(context.kinds.values + context.kinds.groups):
            name = override.key_or_group.replace("/", ".")
            if override.is_delete() and (problem.key == name or problem.key.startswith(f"{name}.")):
                return command_line(override.input_line or "")
    for override in reversed(context.kinds.values):  # what is wrong with a whole may be what was put into it
        if override.key_or_group.startswith(f"{problem.key}."):
            return command_line(override.input_line or "")
    return origin_of(context.origins, problem.key)
