"""What a command is: a primary configuration, the class of its root, and a function."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmx.config.component import Config


@dataclass(frozen=True)
class Command:
    """One command of the command line; its YAML is `conf/<name>.yaml`, spaces written as `_`.

    name        as typed, `data prepare`
    summary     what it does, in one line
    schema      root class, `package.module:Class`, imported when the command runs
    function    takes (Composed, run directory); what it returns is what a sweeper minimises
    keys        the keys that the help page explains
    examples    (command line, what it does)
    resumable   whether `resume=RUN` goes on with a run
    implied     (key, option): an override of the key chooses the option, `group=name`, unless the group is chosen
    literal     keys whose text is taken as it is written: commas, brackets, spaces at its end
    extendable  patterns of the keys that may change what is computed when a run goes on
    listed      (group, key): options of the group, separated by commas, are listed under the key; the first is chosen
    collects    (key, own): overrides of other keys than those of `own` are collected, as they are, under the key
    positional  the key that a word without `=` is the value of; several: of the words in their order
    flags       (word, override that it is short for)
    elsewhere   the run will not be on this machine: files that are not here are no problem
    """

    name: str
    summary: str
    schema: str
    function: Callable[[Any, Path], float | None]
    keys: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    resumable: bool = False
    implied: tuple[tuple[str, str], ...] = ()
    literal: tuple[str, ...] = ()
    extendable: tuple[str, ...] = ()
    listed: tuple[tuple[str, str], ...] = ()
    positional: str | tuple[str, ...] | None = None
    flags: tuple[tuple[str, str], ...] = ()
    elsewhere: bool = False
    collects: tuple[str, tuple[str, ...]] | None = None

    def with_implied(self, overrides: Sequence[str]) -> list[str]:
        """The overrides, before them the options that follow from them; lists of options under their keys."""
        if self.positional is not None:
            keys = (self.positional,) if isinstance(self.positional, str) else self.positional
            overrides = _named(overrides, keys, self.keys)
        if self.collects is not None:
            overrides = _collected(overrides, *self.collects)
        for group, key in self.listed:
            overrides = [word for line in overrides for word in _listed(line, group, key)]
        given = {name.lstrip("+"): value for name, _, value in (line.partition("=") for line in overrides)}
        chosen = [
            option
            for key, option in self.implied
            if given.get(key, "null") not in ("null", "") and option.partition("=")[0] not in given
        ]
        return [*chosen, *overrides]

    @property
    def primary(self) -> str:
        """Name of the primary configuration."""
        return self.name.replace(" ", "_")

    def schema_class(self) -> type[Config]:
        """The root class."""
        module, _, name = self.schema.partition(":")
        return getattr(importlib.import_module(module), name)


def _listed(line: str, group: str, key: str) -> list[str]:
    name, equals, options = line.partition("=")
    if name != group or not equals:
        return [line]
    return [f"{group}={options.split(',')[0]}", f"{key}=[{options}]"]


def _named(overrides: Sequence[str], keys: Sequence[str], known: Sequence[str]) -> list[str]:
    """Words without `=` as values of the keys in order, the last key taking what is left.

    Those from a `known` key on stay: whoever writes `temperature 2` left out a `=`.
    """
    from lmx.config.overrides import write_value

    named, left = [], list(keys)
    for number, line in enumerate(overrides):
        if line in known:
            return [*named, *overrides[number:]]
        if "=" in line or line.startswith("~"):
            named.append(line)
            continue
        named.append(f"{left[0]}={write_value(line)}")
        left = left[1:] or left
    return named


def _collected(overrides: Sequence[str], key: str, own: Sequence[str]) -> list[str]:
    from lmx.config.overrides import write_value

    kept, others = [], []
    for line in overrides:
        name = line.lstrip("+~").partition("=")[0].rpartition("@")[2]  # group@where: it is about where
        (kept if re.split(r"[./]", name)[0] in own else others).append(line)
    return [*kept, f"{key}={write_value(others)}"] if others else kept
