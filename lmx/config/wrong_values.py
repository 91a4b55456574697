"""A value that is missing, cannot be computed or is not accepted: where it comes from, and one that is accepted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from lmx.config.errors import UNSET, Problem, show_value
from lmx.config.findings import Context, from_command_line, is_formula, override_line, value_of_files
from lmx.config.fixes import accepted, class_names, likely_values
from lmx.config.near import nearest
from lmx.config.origins import origin_of
from lmx.config.overrides import write_override, write_value
from lmx.config.resolve import HOLE, references
from lmx.config.schema import pick, spot_of, told
from lmx.config.sources import peek_yaml


def missing_value(context: Context, problem: Problem) -> Problem:
    """A key that must be given: with an example of a value where one is known."""
    if str(problem.origin).startswith("command line: ~"):
        value = value_of_files(context, problem.key)
        message = "is required, and cannot be removed"
        if value is None and not isinstance(value, Mapping):
            return replace(problem, message=message + "; null turns it off", fix=f"{problem.key}=null")
        return replace(problem, message=message)
    spot = spot_of(context.found.schema, problem.key, context.plain)
    meaning = spot.field.description if spot and spot.field else None
    message = problem.message + (f": {meaning}" if meaning else "")
    before, elsewhere = value_of_files(context, problem.key), _values_of_options(context, problem.key)
    for value in likely_values(context.found.schema, context.plain, problem, before, elsewhere):
        if value is None and problem.value == "???":
            continue  # a file says that it must be given
        if not isinstance(value, Mapping) and accepted(
            context.found.schema, context.plain, problem.key, value
        ):
            return replace(problem, message=message, fix=override_line(context, problem.key, value))
    example = told(spot, "example")
    if example is not None:
        value = int(example) if example.isdigit() else example
        written = override_line(context, problem.key, value)
        if isinstance(value, str):  # a name that only the user knows: nothing to paste
            return replace(problem, message=f"{message}, such as {written}")
        return replace(problem, message=message, fix=written)
    group = problem.key.replace(".", "/")
    options = context.found.tree.options(group) if context.found.tree.is_group(group) else []
    if options:
        plus = "" if group in context.composition.choices else "+"
        return replace(problem, message=message, fix=write_override(group, options[0], plus))
    return replace(problem, message=message)


def failed_formula(context: Context, problem: Problem) -> Problem:
    """A value that a formula could not give: what went into it, and where that came from."""
    raw = context.resolved.raw.get(problem.key, "")
    lines = [problem.message]
    fix = None
    for key in dict.fromkeys(references(raw, problem.key)):
        value = pick(context.plain, key)
        if value is UNSET or value is HOLE or isinstance(value, Mapping | list):
            continue
        origin = origin_of(context.origins, key)
        lines.append(f"with {key} = {show_value(value)}" + (f" ({origin})" if origin else ""))
        before = value_of_files(context, key)
        if fix is None and origin and origin.startswith("command line: ") and before not in (UNSET, value):
            fix = write_override(key, before)
    if fix is None and from_command_line(problem) and value_of_files(context, problem.key) is not UNSET:
        fix = override_line(context, problem.key, value_of_files(context, problem.key))
    return replace(problem, message="\n".join(lines), fix=fix)


def wrong_value(context: Context, problem: Problem) -> Problem:
    """A value of the wrong type or out of range: a fix that the schema accepts."""
    if problem.fix:
        return problem
    raw = context.resolved.raw.get(problem.key)
    key = problem.key
    if raw and re.fullmatch(r"\$\{[^{}:]*\}", raw):
        source = references(raw, key)[0]
        origin = origin_of(context.origins, source)
        message = f"{problem.message} (it is {raw}" + (f", set at {origin})" if origin else ")")
        problem = replace(problem, message=message)
        key = source
    elif raw:
        problem = replace(problem, message=f"{problem.message} (it is {raw})")
    before = value_of_files(context, key)
    schema, tree = context.found.schema, context.plain
    for value in likely_values(schema, tree, problem, before, _values_of_options(context, key)):
        if accepted(schema, tree, problem.key, value) and not isinstance(value, Mapping):
            return replace(problem, fix=override_line(context, key, value) if _simple(key) else None)
    return problem


def _simple(key: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key)) and bool(write_value(""))


def _values_of_options(context: Context, key: str) -> list[Any]:
    """Values that other options of the same group give to `key`."""
    parts = key.split(".")
    usual = pick(OmegaConf.to_container(context.found.base.cfg, resolve=False), key)  # type: ignore[arg-type]
    found: list[Any] = [] if usual is UNSET or is_formula(usual) else [usual]
    for length in range(len(parts) - 1, 0, -1):
        group = "/".join(parts[:length])
        if not context.found.tree.is_group(group):
            continue
        for option in context.found.tree.options(group):
            content = peek_yaml(context.found.tree.file(f"{group}/{option}"))
            value = pick(content, ".".join(parts[length:]))
            if value is not UNSET and value not in found and not is_formula(value):
                found.append(value)
    return found


def wrong_target(context: Context, problem: Problem) -> Problem:
    """A `_target_` that cannot stand there: with those that can, and the nearest or the usual one as the fix."""
    names = class_names(context.found.schema, context.plain, problem.key)
    node = problem.key.removesuffix("._target_")
    value = problem.value if problem.value is not UNSET else UNSET
    if isinstance(value, Mapping):
        value = UNSET
    near = nearest(str(value), names, cutoff=0.5) if value is not UNSET else None
    listed = f"; there are {', '.join(names)}" if names else ""
    fix = None
    option = _option_of(context, node, near) if near and from_command_line(problem) else None
    if option:
        fix = write_override(node.replace(".", "/"), option)
    elif near:
        fix = override_line(context, problem.key, near)
    elif context.found.tree.is_group(node.replace(".", "/")):
        group = node.replace(".", "/")
        usual = context.found.base.choices.get(group)
        fix = write_override(group, usual) if usual else None
    return replace(problem, value=value, message=problem.message + listed, fix=fix)


def _option_of(context: Context, node: str, target: str) -> str | None:
    """The option of a group that has the class `target`, with the values that go with it."""
    group = node.replace(".", "/")
    options = context.found.tree.options(group) if context.found.tree.is_group(group) else []
    found = [
        option
        for option in options
        if pick(peek_yaml(context.found.tree.file(f"{group}/{option}")), "_target_") == target
    ]
    return nearest(target.rpartition(".")[2], found) or next(iter(found), None)
