"""The overrides of a command line: parsed one by one, so that every bad one is reported, and sorted by kind."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from lmx.config.errors import Problem, show_value
from lmx.config.near import nearest
from lmx.config.origins import command_line
from lmx.config.sources import Tree

_LISTED = 30
"""Options of a group that a message lists; of more it names the nearest."""


class Sorted(NamedTuple):
    """The sound overrides of a command line, each list in the order given.

    values   set keys of the job
    groups   choose options of groups
    hydra    change Hydra itself
    dropped  groups whose choice was not sound: group -> option taken in its place, or None
    """

    values: list[Override]
    groups: list[Override]
    hydra: list[Override]
    dropped: dict[str, str | None]


def write_value(value: Any) -> str:
    """A value in the grammar of overrides; `${...}` in a text stays an interpolation."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_write_key(k)}:{write_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(write_value(v) for v in value) + "]"
    if not isinstance(value, str):
        return show_value(value)
    if re.fullmatch(r"[\w./+-]+", value, re.ASCII) and not _reads_as_other(value):
        return value
    if re.fullmatch(r"\$\{[\w.]+\}", value, re.ASCII):
        return value
    return quote(value, interpolate=True)


def _write_key(key: Any) -> str:
    """A key of a mapping: the grammar has no quotes there, only a backslash before its own characters."""
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", key) if isinstance(key, str) else show_value(key)


def _reads_as_other(text: str) -> bool:
    """Whether plain text would be read as null, a boolean or a number."""
    if text.lower().lstrip("+-") in ("null", "true", "false", "nan", "inf"):
        return True
    return bool(re.fullmatch(r"[+-]?(\d[\d_]*)?\.?[\d_]*([eE][+-]?[\d_]+)?", text))


def quote(text: str, *, interpolate: bool = False) -> str:
    """Text in the quotes of the grammar of overrides, to be read back as it is: `${` too, unless `interpolate`.

    The grammar takes a backslash as it is, except before a quote and at the end.
    """
    if not interpolate:
        text = re.sub(r"(\\*)(\$\{)", lambda m: m[1] * 2 + "\\" + m[2], text)
    text = re.sub(r'(\\*)(")', lambda m: m[1] * 2 + '\\"', text)
    return '"' + re.sub(r"\\+\Z", lambda m: m[0] * 2, text) + '"'


def taken_literally(word: str, keys: Sequence[str]) -> str:
    """`key=text` with the text in quotes, for one of these keys; null, nothing and what is in quotes stay as they are.

    So that commas, brackets and spaces at the end of a prompt are not read as the grammar of overrides has them.
    """
    key, equals, text = word.partition("=")
    in_quotes = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if key not in keys or not equals or text in ("", "null") or in_quotes:
        return word
    return f"{key}={quote(text)}"


def write_override(key: str, value: Any, prefix: str = "") -> str:
    """An override that a shell passes on unchanged."""
    return shlex.quote(f"{prefix}{key}={write_value(value)}")


def parse_overrides(tree: Tree, lines: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    """Every override that can be read, and a problem for each that cannot."""
    parsed: list[Override] = []
    problems: list[Problem] = []
    words = list(lines)
    index = 0
    while index < len(words):
        line = words[index]
        joined = _joined(words, index)
        if joined:
            text, taken = joined
            index += taken
            problems.append(_unreadable(" ".join(words[index - taken : index]), text))
            continue
        index += 1
        try:
            override = tree.parser.parse_override(line)
            override.config_loader = tree.loader
            parsed.append(override)
        except (HydraException, AssertionError) as error:
            problems.append(_parse_problem(tree, line, error))
    return parsed, problems


def _joined(words: Sequence[str], index: int) -> tuple[str, int] | None:
    """`key = value` and `key value` written as several words: the override meant, and how many words it took."""
    here = words[index]
    after = words[index + 1] if index + 1 < len(words) else ""
    last = words[index + 2] if index + 2 < len(words) else ""
    if not re.fullmatch(r"-{0,2}[+~]{0,2}[A-Za-z_][\w./@-]*[=:]?", here):
        return None
    name = here.lstrip("-")
    if here.endswith(("=", ":")):
        return (f"{name[:-1]}={after}", 2) if after and "=" not in after else None
    if after == "=" and last and "=" not in last:
        return f"{name}={last}", 3
    if after.startswith("=") and len(after) > 1:
        return f"{name}{after}", 2
    if after and not here.startswith("~") and "=" not in after and re.fullmatch(r"[\w./+-]+", after):
        meant = "." in name or here.startswith("-") or after[0].isdigit()
        return (f"{name}={after}", 2) if meant else None
    return None


def _unreadable(line: str, meant: str | None = None, message: str = "", kind: str = "syntax") -> Problem:
    return Problem(
        key=line,
        message=message or "an override is one word, key=value",
        origin="command line",
        fix=shlex.quote(meant) if meant else None,
        kind=kind,
    )


def _parse_problem(tree: Tree, line: str, error: Exception) -> Problem:
    bare = line.lstrip("-")
    if line.startswith("-"):
        meant = bare if "=" in bare else None
        return _unreadable(line, meant, "unknown option; a key is set without dashes, key=value")
    if "=" not in line:
        words = bare.split(maxsplit=1)
        if len(words) == 2 and re.fullmatch(r"[A-Za-z_][\w./]*:?", words[0]):
            return _unreadable(line, f"{words[0].rstrip(':')}={words[1]}")
        if tree.is_group(bare):
            options = ", ".join(tree.options(bare))
            return _unreadable(line, None, f"{bare} is a group; {bare}=OPTION chooses one of {options}")
        group, _, option = bare.lstrip("+~").rpartition("/")
        if group and tree.is_group(group) and option in tree.options(group):
            return _unreadable(line, f"{group}={option}", "an option of a group is chosen with =")
        owners = [g for g in tree.groups() if bare in tree.options(g)]
        if owners:
            return _unreadable(line, f"{owners[0]}={bare}", f"{bare} is an option of the group {owners[0]}")
        return _unreadable(line, kind="bare")
    key, _, value = line.partition("=")
    if re.fullmatch(r"[+~]{0,2}[A-Za-z_][\w./@-]*", key):
        for meant in (f"{key}={value.lstrip('=').strip()}", f"{key}={quote(value, interpolate=True)}"):
            if meant != line and _parses(tree, meant):
                return _unreadable(
                    line, meant, "the value cannot be read; text with special characters needs quotes"
                )
    reason = str(error).strip().splitlines()
    return _unreadable(line, None, "cannot be read" + (f": {reason[0]}" if reason else ""))


def _parses(tree: Tree, line: str) -> bool:
    try:
        tree.parser.parse_override(line)
    except (HydraException, AssertionError):
        return False
    return True


def sort_overrides(
    tree: Tree, overrides: Sequence[Override], choices: dict[str, Any]
) -> tuple[Sorted, list[Problem]]:
    """The sound overrides by kind, and a problem for each group choice or sweep that is not sound.

    `choices` are the groups of the command's defaults list, with what they choose.
    """
    result = Sorted([], [], [], {})
    problems: list[Problem] = []
    for override in overrides:
        name = override.key_or_group
        if override.is_sweep_override():
            problems.append(_sweep_problem(override))
            if tree.is_group(name):
                result.dropped[name.replace("/", ".")] = None
        elif override.is_hydra_override():
            result.hydra.append(override)
        elif tree.is_group(name) and not isinstance(override.value(), dict):
            problem = _group_problem(tree, override, choices)
            if problem is None:
                result.groups.append(override)
                continue
            problems.append(problem)
            _take_meant_option(tree, problem, result)
        elif override.package is not None:
            meant = nearest(name, tree.groups())
            problems.append(
                Problem(
                    name,
                    "no such group" + (f"; the nearest is {meant}" if meant else ""),
                    origin=command_line(override.input_line or name),
                    kind="unknown_group",
                )
            )
        else:
            result.values.append(override)
    return result, problems


def _take_meant_option(tree: Tree, problem: Problem, result: Sorted) -> None:
    """Goes on with the option that was probably meant, so that the rest can be checked."""
    meant = shlex.split(problem.fix)[0] if problem.fix else None
    option = None
    if meant and not meant.startswith("~") and _parses(tree, meant):
        override = tree.parser.parse_override(meant)
        result.groups.append(override)
        option = str(override.value())
    result.dropped[problem.key.replace("/", ".")] = option


def _sweep_problem(override: Override) -> Problem:
    line = override.input_line or override.key_or_group
    return Problem(
        override.key_or_group,
        "several values, but this is one run; -m runs each of them, [a,b] is a list, quotes make it one text",
        origin=command_line(line),
        value=line.partition("=")[2],
        fix=shlex.join(["-m", line]),
        kind="sweep",
    )


def _group_problem(tree: Tree, override: Override, choices: dict[str, Any]) -> Problem | None:
    """What is wrong with the choice of an option, if anything."""
    group, value = override.key_or_group, override.value()
    key = override.get_key_element().lstrip("+~")
    origin = command_line(override.input_line or "")
    listed = key in choices

    def problem(message: str, fix: str | None, kind: str) -> Problem:
        return Problem(group, message, value, origin, fix, kind)

    if override.is_delete():
        message = "nothing to remove: no option of this group is chosen"
        return None if listed else Problem(group, message, origin=origin, kind="group")
    options = tree.options(group)
    if value is None and group == "experiment" and listed:
        return problem("null is no option; ~ leaves a group out", shlex.quote(f"~{key}"), "unknown_option")
    unknown = [n for n in (value if isinstance(value, list) else [value]) if str(n) not in options]
    if unknown:
        default = choices.get(key)
        meant = nearest(str(unknown[0]), options) if value is not None else None
        fix = write_override(key, meant or default) if meant or default else None
        shown = f"the options are {', '.join(options)}" if options else "the group has none"
        if len(options) > _LISTED:
            near = f"the nearest is {meant}; " if meant else ""
            shown = f"{near}--help {group} lists all of them"
        return problem(f"no such option; {shown}", fix, "unknown_option")
    if listed and (override.is_add() or override.is_force_add()):
        return problem(
            "the group is there already; it is chosen without +", write_override(key, value), "group"
        )
    if override.is_force_add():
        return problem("an option is added with one +", write_override(key, value, "+"), "group")
    if not listed and not override.is_add():
        inside = nearest(group, [c.split("@")[0] for c in choices])
        fix = write_override(inside, value) if inside and str(value) in tree.options(inside) else None
        return problem("this command has no such group", fix, "unknown_group")
    return None
