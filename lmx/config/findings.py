"""What is at hand while problems are explained, and what is asked of it again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from lmx.config.component import Config
from lmx.config.errors import UNSET, Problem
from lmx.config.fixes import whole_list
from lmx.config.groups import Composition
from lmx.config.near import nearest_key
from lmx.config.origins import Origins
from lmx.config.overrides import Sorted, write_override
from lmx.config.resolve import Resolved
from lmx.config.schema import keys_beside, pick
from lmx.config.sources import Tree


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
class Context:
    """Findings, with all that came of the one composition that has the problems.

    origins  full path -> where a value was set
    known    full paths of all keys that the schema knows
    """

    found: Findings
    resolved: Resolved
    composition: Composition
    kinds: Sorted
    origins: Origins
    known: list[str]

    @property
    def plain(self) -> dict[str, Any]:
        """The resolved tree; HOLE where a value is missing or could not be computed."""
        return self.resolved.tree


def from_command_line(problem: Problem) -> bool:
    """Whether an override set what is wrong, not a file."""
    return bool(problem.origin) and str(problem.origin).startswith("command line: ")


def nearest_known(context: Context, key: str) -> str | None:
    """The known key most like `key`, one beside it before others; None where none is like it."""
    beside = [name for name in keys_beside(context.found.schema, key, context.plain)]
    near = nearest_key(key, beside, context.known)
    return near if near != key else None


def override_line(context: Context, key: str, value: Any) -> str:
    """The override that gives `value` to `key`: of the whole list, where `key` is an item of one."""
    return write_override(*whole_list(context.plain, key, value))


def is_formula(value: Any) -> bool:
    """Whether a value as a file has it must still be computed or given."""
    if isinstance(value, list):
        return any(is_formula(item) for item in value)
    return isinstance(value, str) and ("${" in value or value == "???")


def value_of_files(context: Context, key: str) -> Any:
    """The value that the files give, without the command line's overrides of values."""
    cfg = context.composition.cfg
    if cfg is None:
        return UNSET
    value = pick(OmegaConf.to_container(cfg, resolve=False), key)
    return UNSET if is_formula(value) else value
