"""What to paste instead: values likely to be meant, each tried against the schema before it is offered."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from lmx.config.component import Component, Config
from lmx.config.errors import UNSET, Problem
from lmx.config.near import nearest
from lmx.config.schema import Spot, alternatives, is_optional, literals, pick, spot_of, subclasses
from lmx.config.validate import contradictions, validate

_TRUE, _FALSE = ("yes", "on", "1", "true", "y", "t"), ("no", "off", "0", "false", "n", "f", "none")


def likely_values(
    schema: type[Config], tree: Any, problem: Problem, before: Any, elsewhere: list[Any]
) -> Iterator[Any]:
    """Values to try in place of the one that is wrong, the likeliest first.

    `before` is the value without the command line, `elsewhere` are values of other options of the group.
    """
    spot = spot_of(schema, problem.key, tree)
    value = problem.value
    if spot is not None and value is not UNSET:
        yield from _like(spot, value)
    if before is not UNSET and before != value:
        yield before
    yield from elsewhere
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield from (1, 0) if value <= 0 else (1.0, 0.9)
    if spot is not None and is_optional(spot.annotation) and value is not None:
        yield None
    if spot is not None:
        yield from literals(spot.annotation)[:1]


def _like(spot: Spot, value: Any) -> Iterator[Any]:
    """Values of the right kind close to `value`."""
    choices = literals(spot.annotation)
    text = str(value).strip().lower()
    if True in choices and text in _TRUE:
        yield True
    if False in choices and text in _FALSE:
        yield False
    names = [choice for choice in choices if isinstance(choice, str)]
    close = nearest(text, names) if names else None
    if close:
        yield close
    if text in ("none", "~", "off", "false") and is_optional(spot.annotation):
        yield None
    if isinstance(value, str):
        yield from _numbers_in(value)
        if "," in value:
            yield [part.strip() for part in value.strip("[]()").split(",")]
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        if value < 0:
            yield -value
        if abs(value) < 1e15 and value != int(value):
            yield round(value)
    if isinstance(value, str | int | float) and value not in ("", "???"):
        yield [value]
    if isinstance(value, list) and len(value) == 1:
        yield value[0]


def _numbers_in(text: str) -> Iterator[Any]:
    """The number that a text starts with, with its suffix (`2 hours`: `2h`; `100 steps`: 100).

    Not without a letter that scales it: `1h` of a key in steps is not 1, nor is `10Q` 10.
    """
    match = re.match(
        r"([+-]?\d+(?:[._]\d+)*(?:[eE][+-]?\d+)?)([A-Za-z]?)([A-Za-z]*)",
        text.replace(" ", "").replace(",", "."),
    )
    if match is None or match[1].count(".") > 1:
        return
    digits = match[1].replace("_", "")
    number = int(digits) if digits.lstrip("+-").isdigit() else float(digits)
    if match[2]:
        yield from (f"{digits}{match[2]}", f"{digits}{match[2].swapcase()}")
    if match[2] in tuple("kKmMbBgGtTqQshd") and not match[3]:
        return
    yield number
    if number < 0:
        yield -number


def accepted(schema: type[Config], tree: Any, key: str, value: Any) -> bool:
    """Whether the schema accepts `value` at `key`, whatever is wrong elsewhere."""
    changed = place(tree, key, value)
    if changed is None:
        return False
    checked = validate(schema, changed)
    problems = checked.problems if checked.config is None else contradictions(checked.config)
    return not any(p.key == key or p.key.startswith(f"{key}.") for p in problems)


def place(tree: Any, key: str, value: Any) -> Any:
    """A copy of `tree` with `value` at `key`; None where there is no such place."""
    changed = copy.deepcopy(tree)
    parent, _, last = key.rpartition(".")
    node = pick(changed, parent)
    if isinstance(node, dict):
        node[last] = value
    elif isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    else:
        return None
    return changed


def whole_list(tree: Any, key: str, value: Any) -> tuple[str, Any]:
    """Key and value of an override: the list itself where `key` is an item of one."""
    parent, _, last = key.rpartition(".")
    node = pick(tree, parent) if parent else UNSET
    if isinstance(node, list) and last.isdigit():
        items = list(node)
        items[int(last)] = value
        return whole_list(tree, parent, items)
    return key, value


def class_names(schema: type[Config], tree: Any, key: str) -> list[str]:
    """Full names of lmx's own classes that may stand in the `_target_` at `key`.

    Which classes of other packages are known depends on what was imported before, so they are not listed.
    """
    spot = spot_of(schema, key.removesuffix("._target_"), tree)
    names: list[str] = []
    for part in alternatives(spot.annotation) if spot else []:
        if isinstance(part, type) and issubclass(part, Component):
            own = [c for c in subclasses(part) if c.__module__.startswith("lmx.")]
            names += [public_name(c) for c in own if not any(issubclass(d, c) and d is not c for d in own)]
    return list(dict.fromkeys(names))


def public_name(cls: type) -> str:
    """The shortest module path under which a class can be imported: `lmx.optim.Muon`."""
    import sys

    parts = cls.__module__.split(".")
    for length in range(1, len(parts)):
        module = sys.modules.get(".".join(parts[:length]))
        if module is not None and getattr(module, cls.__name__, None) is cls:
            return f"{module.__name__}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def without(tree: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of `tree` that lacks `key`."""
    changed = copy.deepcopy(dict(tree))
    parent, _, last = key.rpartition(".")
    node = pick(changed, parent)
    if isinstance(node, dict):
        node.pop(last, None)
    return changed


def without_removal(fix: str | None, key: str) -> str | None:
    """A fix without its word `~key`, for a key that no file has: on the command line it is left out instead."""
    if fix is None or f"~{key}" not in fix:
        return fix
    return shlex.join([word for word in shlex.split(fix) if word != f"~{key}"]) or None
