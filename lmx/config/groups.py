"""Composition of files by Hydra, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.default_element import ResultDefault
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmx.config.errors import UNSET, Problem
from lmx.config.files import show_path
from lmx.config.near import nearest, nearest_key
from lmx.config.origins import command_line, default_entry
from lmx.config.schema import flatten
from lmx.config.sources import Tree, yaml_node

_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    ValueError,
    AssertionError,
    OSError,
    TypeError,
)


@dataclass
class Composition:
    """What Hydra makes of a choice of options.

    cfg       the whole tree, with its `hydra` node and its interpolations; None where not even that exists
    defaults  the files in merge order
    choices   group -> option
    problems  of files and choices that could not be composed
    failed    packages of the groups whose choice was left out
    """

    cfg: DictConfig | None = None
    defaults: list[ResultDefault] = field(default_factory=list)
    choices: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def compose_groups(tree: Tree, lines: Sequence[str]) -> Composition:
    """Composes with the overrides `lines`; those that Hydra cannot follow are left out, each with its problem."""
    try:
        return _compose(tree, lines)
    except _ERRORS as error:
        if not lines:
            return Composition(problems=_problems(tree, None, error, None))
    problems: list[Problem] = []
    failed: list[str] = []
    sound: list[str] = []
    for line in sorted(lines, key=lambda text: "hydra.searchpath=" not in text):
        try:
            _compose(tree, [*sound, line])
            sound.append(line)
        except _ERRORS as error:
            problems += _problems(tree, line, error, sound)
            failed.append(line.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", "."))
    result = _compose(tree, sound)
    result.problems, result.failed = problems, failed
    return result


def _compose(tree: Tree, lines: Sequence[str]) -> Composition:
    primary = tree.place.primary
    cfg = tree.loader.load_configuration(primary, list(lines), RunMode.RUN, validate_sweep_overrides=False)
    known = OmegaConf.to_container(cfg.hydra.runtime.choices, resolve=False)
    choices = {str(k): v for k, v in dict(known or {}).items() if not str(k).startswith("hydra/")}  # type: ignore[arg-type]
    return Composition(cfg, list(tree.loader.defaults), choices)


def _problems(
    tree: Tree, line: str | None, error: BaseException, sound: Sequence[str] | None
) -> list[Problem]:
    """What an error of Hydra's means to a person."""
    text = str(error)
    origin = command_line(line) if line else None
    if isinstance(error, yaml.YAMLError | UnicodeDecodeError):
        return [_yaml_problem(tree, line, error)]
    if isinstance(error, MissingConfigException):
        chosen = line.lstrip("+~").partition("@")[0].replace("=", "/") if line else None
        return _missing_option(tree, error, origin, chosen)
    name = line.lstrip("+~").partition("=")[0] if line else ""
    if line and name.startswith("hydra"):
        return [_hydra_problem(tree, line, name, text, origin)]
    inside = re.match(r"In '([^']+)': (.*)", text, re.DOTALL)
    if inside:
        path = tree.file(inside[1])
        place = show_path(path) if path else inside[1]
        override = re.search(r"Could not override '([^']+)'", inside[2])
        if override:
            group = override[1].split("@")[0]
            near = nearest(group, [g for g in tree.groups() if g != group])
            message = "the defaults list overrides a group that is not there" + (
                f"; the nearest is {near}" if near else ""
            )
            return [
                Problem(group, message, origin=default_entry(tree, inside[1], group), kind="unknown_group")
            ]
        return [Problem(name, _first_line(inside[2]), origin=place, kind="composition")]
    return [Problem(name, _first_line(text), origin=origin, kind="composition")]


def _first_line(text: str) -> str:
    """The first line of a message, without advice to add `+`."""
    lines = [part.strip() for part in text.splitlines() if part.strip() and "use +" not in part]
    return lines[0] if lines else "cannot be composed"


def _yaml_problem(tree: Tree, line: str | None, error: yaml.YAMLError | UnicodeDecodeError) -> Problem:
    """File, line and column of what cannot be read, and what it is."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
        reason = error.problem or "it cannot be read"
        begun = error.context_mark
        if error.context and begun is not None and begun.line != mark.line:
            reason += f" (in what begins in line {begun.line + 1})"
        place = f"{show_path(mark.name)}:{mark.line + 1}:{mark.column + 1}"
        return Problem("", f"this is no YAML: {_plain_reason(reason)}", origin=place, kind="yaml")
    name = getattr(error, "name", None)
    path = Path(name) if name else tree.file((line or "").lstrip("+~").partition("@")[0].replace("=", "/"))
    place = show_path(path) if path else command_line(line or "")
    if isinstance(error, UnicodeDecodeError):
        where = error.object[: error.start].count(b"\n") + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        reason = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
        return Problem("", f"this is no YAML: {reason}", origin=f"{place}:{where}:{column}", kind="yaml")
    return Problem("", f"this is no YAML: {_first_line(str(error))}", origin=place, kind="yaml")


def _plain_reason(reason: str) -> str:
    """The scanner's words, with those that nobody writes explained."""
    words = {
        "'\\t' that cannot start any token": "a tab; YAML is indented with spaces",
        "expected <block end>, but found '<block mapping start>'": "this line is indented unlike its neighbours",
        "'<stream end>'": "the end of the file",
        "found unexpected end of stream": "the file ends inside quotes",
        "mapping values are not allowed here": "a colon where no key can stand; text with `: ` needs quotes",
    }
    for old, new in words.items():
        reason = reason.replace(old, new)
    return reason.replace("found character a tab", "found a tab")


_PLUGINS = {
    "hydra/sweeper": ("optuna", "ax", "nevergrad"),
    "hydra/launcher": ("joblib", "submitit", "ray"),
}
"""Options that come with packages of Hydra's own authors."""


def _missing_option(
    tree: Tree, error: MissingConfigException, origin: str | None, chosen: str | None
) -> list[Problem]:
    """Every option that does not exist, of those that the file with the missing one names.

    That file is the one that Hydra speaks of, or the one that the override chose (`experiment/long`).
    """
    where = re.match(r"In '([^']+)'", str(error))
    missing = error.missing_cfg_file or ""
    missing = str(missing if isinstance(missing, str) else missing[0])
    parent = where[1] if where else tree.place.primary
    problems: list[Problem] = []
    for file in dict.fromkeys([chosen or parent, parent]):
        path = tree.file(file)
        if path is not None and path.is_file():
            problems += _entries_without_file(tree, file, path)
    if problems:
        return problems
    group, _, option = missing.rpartition("/")
    options = tree.options(group)
    message = f"no such option; the options are {', '.join(options)}" if options else "no such file"
    if option in _PLUGINS.get(group, ()):
        package = "lmx[optuna]" if option == "optuna" else f"hydra-{option}-{group.rpartition('/')[2]}"
        message = f"not installed: pip install '{package}'"
    return [Problem(group, message, option, origin, kind="unknown_option")]


def _entries_without_file(tree: Tree, file: str, path: Path) -> list[Problem]:
    """A problem for each entry of a file's defaults list that names what does not exist."""
    problems = []
    for group, option, line in _entries(path):
        if not group and option not in ("_self_", None):
            name = _beside(file, option)
            if not tree.repository.config_exists(name):
                problems.append(Problem(name, "no such file", origin=line, kind="unknown_option"))
        elif group and option is not None and option not in tree.options(group):
            options = tree.options(group)
            near = nearest(option, options)
            message = f"no such option; the options are {', '.join(options)}" if options else "no such group"
            fix = f"{line}: {group}: {near}" if near else None
            problems.append(Problem(group, message, option, line, fix, "unknown_option"))
    return problems


def _beside(parent: str, name: str) -> str:
    folder = parent.rpartition("/")[0]
    if name.startswith("/"):
        return name[1:]
    return f"{folder}/{name}" if folder else name


def _entries(path: Any) -> list[tuple[str, str | None, str]]:
    """(group, option, origin) of each entry of a file's defaults list; a bare name has the group ''."""
    node = yaml_node(path)
    found: list[tuple[str, str | None, str]] = []
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value != "defaults" or not isinstance(value, yaml.SequenceNode):
            continue
        for item in value.value:
            line = f"{show_path(path)}:{item.start_mark.line + 1}"
            if isinstance(item, yaml.ScalarNode):
                found.append(("", str(item.value).split("@")[0], line))
                continue
            for name, option in item.value if isinstance(item, yaml.MappingNode) else ():
                group = str(name.value).split(" ")[-1].split("@")[0].lstrip("/")
                null = option.tag.endswith(":null") or "${" in str(option.value)
                if isinstance(option, yaml.ScalarNode):
                    found.append((group, None if null else str(option.value), line))
    return found


def _hydra_problem(tree: Tree, line: str, name: str, text: str, origin: str | None) -> Problem:
    """A wrong override of Hydra's own configuration."""
    if "/" in name:
        options = tree.options(name)
        message = (
            f"no such option; the options are {', '.join(options)}" if options else "Hydra has no such group"
        )
        near = nearest(line.partition("=")[2], options) if options else None
        return Problem(name, message, UNSET, origin, f"{name}={near}" if near else None, "hydra")
    whole = _compose(tree, []).cfg
    tree_of_hydra = OmegaConf.to_container(whole.hydra, resolve=False) if whole is not None else {}
    known = [f"hydra.{key}" for key in flatten(tree_of_hydra)]
    if name not in known and "Could not override" in text:
        parent = name.rpartition(".")[0]
        beside = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == parent]
        near = nearest_key(name, beside, known)
        hint = f"; the nearest is {near}" if near else ""
        fix = f"{near}={line.partition('=')[2]}" if near else None
        return Problem(name, f"Hydra has no such key{hint}", UNSET, origin, fix, "hydra")
    lines = [part for part in text.splitlines() if part.strip() and not part.startswith("Error merging")]
    return Problem(
        name, (lines[0] if lines else "Hydra cannot take this value"), UNSET, origin, None, "hydra"
    )
