"""A key that the schema does not know: where it belongs, the nearest that there is, the line to write instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lmx.config.errors import UNSET, Problem, show_value
from lmx.config.files import show_path
from lmx.config.findings import Context, from_command_line, nearest_known, override_line
from lmx.config.fixes import accepted, without
from lmx.config.near import nearest
from lmx.config.origins import command_line, origin_of
from lmx.config.overrides import write_override
from lmx.config.resolve import HOLE
from lmx.config.schema import alternatives, keys_beside, pick, spot_of
from lmx.config.sources import peek_yaml

RUN_FOLDER = ("run_dir", "output_dir", "out_dir", "save_dir", "log_dir", "logdir", "workdir")
"""What other programs call the folder of a run."""


def unknown_key(context: Context, problem: Problem) -> Problem:
    """Names the nearest key, and the line to write instead."""
    if problem.kind == "inside_value" and problem.fix:
        return problem
    problem = _innermost(context, problem)
    misplaced = _misplaced(context, problem)
    if misplaced:
        return replace(problem, message=misplaced, value=UNSET)
    if problem.key in RUN_FOLDER and "trainer" in keys_beside(context.found.schema, "", context.plain):
        message = "unknown key; the folder of a run is hydra.run.dir, on the command line"
        fix = write_override("hydra.run.dir", problem.value) if from_command_line(problem) else None
        return replace(problem, message=message, fix=fix)
    near = nearest_known(context, problem.key)
    owners = _owners(context, problem.key)
    last = problem.key.rpartition(".")[2]
    if owners and last != problem.key and last in keys_beside(context.found.schema, "", context.plain):
        owners, near = [], last  # of this command it is a key of its own
    if owners and not from_command_line(problem):
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
        if str(problem.value) in options and from_command_line(problem):
            return replace(problem, message=message, fix=write_override(near, problem.value))
        return replace(problem, message=message)
    if from_command_line(problem):
        return replace(problem, message=message, fix=override_line(context, near, problem.value))
    parent, _, name = near.rpartition(".")
    if parent != problem.key.rpartition(".")[0]:
        return replace(problem, message=message)
    return replace(problem, message=message, fix=f"{problem.origin}: {name}: {show_value(problem.value)}")


def _number_for_text(context: Context, key: str, value: Any) -> bool:
    """Whether a number would become the text of a key: `resume=3` is taken, but hardly what was meant."""
    spot = spot_of(context.found.schema, key, context.plain)
    kinds = set(alternatives(spot.annotation)) if spot else set()
    return isinstance(value, int | float) and str in kinds and kinds <= {str, type(None)}


def _misplaced(context: Context, problem: Problem) -> str | None:
    """What to say of a file whose content landed under its group's name, which is no key."""
    group = problem.key.partition(".")[0]
    known = keys_beside(context.found.schema, group, context.plain)
    if group in known or not context.found.tree.is_group(group) or from_command_line(problem):
        return None
    option = context.composition.choices.get(group)
    path = context.found.tree.file(f"{group}/{option}") if option else None
    if path is None:
        return None
    return (
        f"{show_path(path)} sets keys of the whole configuration: its first line must be # @package _global_"
    )


def _no_field(context: Context, key: str) -> str:
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


def _innermost(context: Context, problem: Problem) -> Problem:
    """The key that an override really named: `trainer.steps=5` also makes an unknown `trainer`."""
    for override in reversed(context.kinds.values):
        key = override.key_or_group
        if key.startswith(f"{problem.key}.") and command_line(override.input_line or "") == problem.origin:
            return replace(problem, key=key, value=override.value())
    return problem


def _owners(context: Context, key: str) -> list[str]:
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


def _meant_owner(context: Context, owners: Sequence[str], value: Any) -> str | None:
    """The one owner, or else the one that reads files of the value's ending."""
    if len(owners) == 1:
        return owners[0]
    for owner in owners:
        endings = pick(peek_yaml(context.found.tree.file(owner.replace("=", "/"))), "suffixes")
        if isinstance(value, str) and isinstance(endings, list) and value.endswith(tuple(map(str, endings))):
            return owner
    return None
