"""Raw problems made useful: origin, nearest key, a fix that was tried, and none that only follows from another."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import OmegaConf

from lmx.config.component import Component, Config
from lmx.config.errors import UNSET, Problem, show_value
from lmx.config.files import show_path
from lmx.config.fixes import accepted, class_names, likely_values, whole_list, without, without_removal
from lmx.config.groups import Composition
from lmx.config.near import nearest, nearest_key
from lmx.config.origins import Origins, command_line, origin_of
from lmx.config.overrides import Sorted, write_override, write_value
from lmx.config.resolve import HOLE, Resolved, references
from lmx.config.schema import alternatives, keys_beside, known_keys, pick, spot_of, told
from lmx.config.sources import Tree, peek_yaml


@dataclass
class Findings:
    """What is at hand while problems are explained.

    base     the composition without any override
    compose  makes another composition
    dropped  groups whose choice could not be followed: package -> the option taken instead, or None
    """

    tree: Tree
    schema: type[Config]
    base: Composition
    compose: Callable[[Sequence[str]], Composition]
    dropped: Mapping[str, str | None] = field(default_factory=dict)


@dataclass
class _Context:
    found: Findings
    resolved: Resolved
    composition: Composition
    kinds: Sorted
    origins: Origins
    known: list[str]

    @property
    def plain(self) -> dict[str, Any]:
        return self.resolved.tree


def explain(
    found: Findings,
    problems: Sequence[Problem],
    resolved: Resolved,
    composition: Composition,
    kinds: Sorted,
    origins: Origins,
) -> list[Problem]:
    """The problems as a person should see them."""
    context = _Context(found, resolved, composition, kinds, origins, known_keys(found.schema, resolved.tree))
    kept = [p for p in problems if not _follows(context, p, problems)]
    return [_explain(context, problem) for problem in kept or problems]


def _follows(context: _Context, problem: Problem, problems: Sequence[Problem]) -> bool:
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


def _explain(context: _Context, problem: Problem) -> Problem:
    origin = problem.origin or _origin(context, problem)
    if origin:
        problem = problem.with_origin(origin)
    if problem.kind in ("unknown_key", "inside_value"):
        return _unknown_key(context, problem)
    if problem.kind == "nothing":
        near = _near(context, problem.key)
        return replace(problem, message=problem.message + (f"; the nearest is {near}" if near else ""))
    if problem.kind == "target":
        return _target(context, problem)
    if problem.kind == "missing":
        return _missing(context, problem)
    if problem.kind == "computed":
        return _computed(context, problem)
    if problem.kind in ("interpolation", "circle") and not problem.fix and _from_command_line(problem):
        before = _before(context, problem.key)
        return problem if before is UNSET else replace(problem, fix=_override(context, problem.key, before))
    if problem.kind in ("interpolation", "circle", "present", "override", "module", "fault"):
        return problem
    if problem.kind == "contradiction":
        value = pick(context.plain, problem.key)
        if _before(context, problem.key) is UNSET:
            problem = replace(problem, fix=without_removal(problem.fix, problem.key))
        return replace(problem, value=value if not isinstance(value, Mapping) else UNSET)
    return _wrong_value(context, problem)


def _origin(context: _Context, problem: Problem) -> str | None:
    if problem.kind == "missing":
        for override in reversed(context.kinds.values + context.kinds.groups):
            name = override.key_or_group.replace("/", ".")
            if override.is_delete() and (problem.key == name or problem.key.startswith(f"{name}.")):
                return command_line(override.input_line or "")
    return origin_of(context.origins, problem.key)


def _from_command_line(problem: Problem) -> bool:
    return bool(problem.origin) and str(problem.origin).startswith("command line: ")


def _near(context: _Context, key: str) -> str | None:
    beside = [name for name in keys_beside(context.found.schema, key, context.plain)]
    near = nearest_key(key, beside, context.known)
    return near if near != key else None


def _unknown_key(context: _Context, problem: Problem) -> Problem:
    """Names the nearest key, and the line to write instead."""
    if problem.kind == "inside_value" and problem.fix:
        return problem
    problem = _innermost(context, problem)
    misplaced = _misplaced(context, problem)
    if misplaced:
        return replace(problem, message=misplaced, value=UNSET)
    near = _near(context, problem.key)
    owners = _owners(context, problem.key)
    if owners and not _from_command_line(problem):
        return replace(problem, message=_no_field(context, problem.key))
    if owners and (near is None or near.rpartition(".")[0] != problem.key.rpartition(".")[0]):
        group = owners[0].partition("=")[0]
        message = f"unknown key here; it belongs to {', '.join(owners).replace(f', {group}=', ', ')}"
        meant = _meant_owner(context, owners, problem.value)
        return replace(
            problem, message=message, fix=meant and f"{meant} {write_override(problem.key, problem.value)}"
        )
    group = None if near or "." in problem.key else nearest(problem.key, context.found.tree.groups())
    if near is None and group is None:
        parent, beside = problem.key, []
        while parent and not beside:
            beside = keys_beside(context.found.schema, parent, context.plain)
            parent = parent.rpartition(".")[0]
        where = f"{parent} has" if parent else "there are"
        listed = f"; {where} {', '.join(beside)}" if beside else ""
        return replace(problem, message=f"unknown key{listed}")
    name = near or group or ""
    message = f"unknown key; the nearest is {name}"
    tree = without(context.plain, problem.key)
    if near is None or isinstance(problem.value, Mapping) or problem.value is HOLE:
        return replace(problem, message=message)
    if _number_for_text(context, near, problem.value):
        return replace(problem, message=message)
    if not accepted(context.found.schema, tree, near, problem.value):
        options = context.found.tree.options(near) if context.found.tree.is_group(near) else []
        if str(problem.value) in options and _from_command_line(problem):
            return replace(problem, message=message, fix=write_override(near, problem.value))
        return replace(problem, message=message)
    if _from_command_line(problem):
        return replace(problem, message=message, fix=_override(context, near, problem.value))
    parent, _, name = near.rpartition(".")
    if parent != problem.key.rpartition(".")[0]:
        return replace(problem, message=message)
    return replace(problem, message=message, fix=f"{problem.origin}: {name}: {show_value(problem.value)}")


def _number_for_text(context: _Context, key: str, value: Any) -> bool:
    """Whether a number would become the text of a key: `resume=3` is taken, but hardly what was meant."""
    spot = spot_of(context.found.schema, key, context.plain)
    kinds = set(alternatives(spot.annotation)) if spot else set()
    return isinstance(value, int | float) and str in kinds and kinds <= {str, type(None)}


def _misplaced(context: _Context, problem: Problem) -> str | None:
    """What to say of a file whose content landed under its group's name, which is no key."""
    group = problem.key.partition(".")[0]
    known = keys_beside(context.found.schema, group, context.plain)
    if group in known or not context.found.tree.is_group(group) or _from_command_line(problem):
        return None
    option = context.composition.choices.get(group)
    path = context.found.tree.file(f"{group}/{option}") if option else None
    if path is None:
        return None
    return (
        f"{show_path(path)} sets keys of the whole configuration: its first line must be # @package _global_"
    )


def _no_field(context: _Context, key: str) -> str:
    """What to say of a key in a file that the chosen class does not have, though another option's has."""
    node = key.rpartition(".")[0]
    while node and pick(context.plain, f"{node}._target_") is UNSET:
        node = node.rpartition(".")[0]
    target = pick(context.plain, f"{node}._target_")
    place = origin_of(context.origins, f"{node}._target_")
    file = (origin_of(context.origins, key) or "").rpartition(":")[0]
    cure = "leave it out" if place and place.startswith(f"{file}:") else f"do not build upon {file}"
    said = f"{node}._target_, {place}" if place else f"{node}._target_"
    return f"the class {target} ({said}) has no field of this name; add it to the class, or {cure}"


def _innermost(context: _Context, problem: Problem) -> Problem:
    """The key that an override really named: `trainer.steps=5` also makes an unknown `trainer`."""
    for override in reversed(context.kinds.values):
        key = override.key_or_group
        if key.startswith(f"{problem.key}.") and command_line(override.input_line or "") == problem.origin:
            return replace(problem, key=key, value=override.value())
    return problem


def _owners(context: _Context, key: str) -> list[str]:
    """`group=option` of each other option that has the key."""
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        group = "/".join(parts[:length])
        if not context.found.tree.is_group(group):
            continue
        files = {
            option: context.found.tree.file(f"{group}/{option}")
            for option in context.found.tree.options(group)
        }
        inner = ".".join(parts[length:])
        found = [option for option, file in files.items() if pick(peek_yaml(file), inner) is not UNSET]
        if found:
            return [f"{group}={option}" for option in found]
    return []


def _meant_owner(context: _Context, owners: Sequence[str], value: Any) -> str | None:
    """The one owner, or else the one that reads files of the value's ending."""
    if len(owners) == 1:
        return owners[0]
    for owner in owners:
        endings = pick(peek_yaml(context.found.tree.file(owner.replace("=", "/"))), "suffixes")
        if isinstance(value, str) and isinstance(endings, list) and value.endswith(tuple(map(str, endings))):
            return owner
    return None


def _override(context: _Context, key: str, value: Any) -> str:
    return write_override(*whole_list(context.plain, key, value))


def _target(context: _Context, problem: Problem) -> Problem:
    names = class_names(context.found.schema, context.plain, problem.key)
    node = problem.key.removesuffix("._target_")
    value = problem.value if problem.value is not UNSET else UNSET
    if isinstance(value, Mapping):
        value = UNSET
    near = nearest(str(value), names, cutoff=0.5) if value is not UNSET else None
    listed = f"; there are {', '.join(names)}" if names else ""
    fix = None
    option = _option_of(context, node, near) if near and _from_command_line(problem) else None
    if option:
        fix = write_override(node.replace(".", "/"), option)
    elif near:
        fix = _override(context, problem.key, near)
    elif context.found.tree.is_group(node.replace(".", "/")):
        group = node.replace(".", "/")
        usual = context.found.base.choices.get(group)
        fix = write_override(group, usual) if usual else None
    return replace(problem, value=value, message=problem.message + listed, fix=fix)


def _option_of(context: _Context, node: str, target: str) -> str | None:
    """The option of a group that has the class `target`, with the values that go with it."""
    group = node.replace(".", "/")
    options = context.found.tree.options(group) if context.found.tree.is_group(group) else []
    found = [
        option
        for option in options
        if pick(peek_yaml(context.found.tree.file(f"{group}/{option}")), "_target_") == target
    ]
    return nearest(target.rpartition(".")[2], found) or next(iter(found), None)


def _elsewhere(context: _Context, key: str) -> list[Any]:
    """Values that other options of the same group give to `key`."""
    parts = key.split(".")
    usual = pick(OmegaConf.to_container(context.found.base.cfg, resolve=False), key)  # type: ignore[arg-type]
    found: list[Any] = [] if usual is UNSET or _is_formula(usual) else [usual]
    for length in range(len(parts) - 1, 0, -1):
        group = "/".join(parts[:length])
        if not context.found.tree.is_group(group):
            continue
        for option in context.found.tree.options(group):
            content = peek_yaml(context.found.tree.file(f"{group}/{option}"))
            value = pick(content, ".".join(parts[length:]))
            if value is not UNSET and value not in found and not _is_formula(value):
                found.append(value)
    return found


def _is_formula(value: Any) -> bool:
    if isinstance(value, list):
        return any(_is_formula(item) for item in value)
    return isinstance(value, str) and ("${" in value or value == "???")


def _before(context: _Context, key: str) -> Any:
    """The value that the files give, without the command line's overrides of values."""
    cfg = context.composition.cfg
    if cfg is None:
        return UNSET
    value = pick(OmegaConf.to_container(cfg, resolve=False), key)
    return UNSET if _is_formula(value) else value


def _missing(context: _Context, problem: Problem) -> Problem:
    """A key that must be given: with an example of a value where one is known."""
    if str(problem.origin).startswith("command line: ~"):
        value = _before(context, problem.key)
        message = "is required, and cannot be removed"
        if value is None and not isinstance(value, Mapping):
            return replace(problem, message=message + "; null turns it off", fix=f"{problem.key}=null")
        return replace(problem, message=message)
    spot = spot_of(context.found.schema, problem.key, context.plain)
    meaning = spot.field.description if spot and spot.field else None
    message = problem.message + (f": {meaning}" if meaning else "")
    before, elsewhere = _before(context, problem.key), _elsewhere(context, problem.key)
    for value in likely_values(context.found.schema, context.plain, problem, before, elsewhere):
        if not isinstance(value, Mapping) and accepted(
            context.found.schema, context.plain, problem.key, value
        ):
            return replace(problem, message=message, fix=_override(context, problem.key, value))
    example = told(spot, "example")
    if example is not None:
        value = int(example) if example.isdigit() else example
        written = _override(context, problem.key, value)
        if isinstance(value, str):  # a name that only the user knows: nothing to paste
            return replace(problem, message=f"{message}, such as {written}")
        return replace(problem, message=message, fix=written)
    group = problem.key.replace(".", "/")
    options = context.found.tree.options(group) if context.found.tree.is_group(group) else []
    if options:
        plus = "" if group in context.composition.choices else "+"
        return replace(problem, message=message, fix=write_override(group, options[0], plus))
    return replace(problem, message=message)


def _computed(context: _Context, problem: Problem) -> Problem:
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
        before = _before(context, key)
        if fix is None and origin and origin.startswith("command line: ") and before not in (UNSET, value):
            fix = write_override(key, before)
    if fix is None and _from_command_line(problem) and _before(context, problem.key) is not UNSET:
        fix = _override(context, problem.key, _before(context, problem.key))
    return replace(problem, message="\n".join(lines), fix=fix)


def _wrong_value(context: _Context, problem: Problem) -> Problem:
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
    before = _before(context, key)
    schema, tree = context.found.schema, context.plain
    for value in likely_values(schema, tree, problem, before, _elsewhere(context, key)):
        if accepted(schema, tree, problem.key, value) and not isinstance(value, Mapping):
            return replace(problem, fix=_override(context, key, value) if _simple(key) else None)
    return problem


def _simple(key: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key)) and bool(write_value(""))
