"""Overrides of values, applied one by one to a composed tree."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lmx.config.component import Config
from lmx.config.errors import UNSET, Problem
from lmx.config.origins import command_line
from lmx.config.overrides import write_override


def apply_values(
    cfg: DictConfig, overrides: Sequence[Override], schema: type[Config]
) -> tuple[DictConfig, list[Problem]]:
    """A copy of `cfg` with the overrides, keys that no file sets included, and what cannot be applied.

    Whether the schema knows a key is not asked here: an unknown one stays in the tree, where validation finds it.
    """
    changed = copy.deepcopy(cfg)
    problems: list[Problem] = []
    OmegaConf.set_struct(changed, False)
    for override in overrides:
        problem = _apply(changed, override)
        if problem is not None:
            problems.append(problem)
    return changed, problems


def _apply(cfg: DictConfig, override: Override) -> Problem | None:
    key, line = override.key_or_group, override.input_line or ""
    origin = command_line(line)
    value: Any = override.value()
    if override.is_delete():
        return _delete(cfg, override)
    scalar = _scalar_above(cfg, key)
    if scalar:
        message = f"unknown key: {scalar} is a value, with no keys inside"
        shown = None if isinstance(value, Mapping | list) else write_override(scalar, value)
        return Problem(key, message, value, origin, shown, "inside_value")
    there = has(cfg, key)
    adding = override.is_add() and not override.is_force_add()
    if adding and there and not isinstance(value, Mapping | list) and _value(cfg, key) is not None:
        return Problem(
            key, "is there already; it is set without +", value, origin, write_override(key, value), "present"
        )
    try:
        with open_dict(cfg):
            OmegaConf.update(cfg, key, value, merge=True, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError, IndexError, AssertionError) as error:
        return Problem(key, str(error).strip().splitlines()[0], value, origin, kind="override")
    return None


def _delete(cfg: DictConfig, override: Override) -> Problem | None:
    key, origin = override.key_or_group, command_line(override.input_line or "")
    if not has(cfg, key):
        return Problem(key, "nothing to remove: there is no such key", origin=origin, kind="nothing")
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    with open_dict(cfg):
        if isinstance(node, ListConfig):
            del node[int(last)]
        else:
            del node[last]
    return None


def has(cfg: Any, key: str) -> bool:
    """Whether a node stands at the full path, be its value null, missing or an interpolation."""
    return _node(cfg, key) is not UNSET


def _node(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(cfg, DictConfig) and not (
            cfg._is_none() or cfg._is_missing() or cfg._is_interpolation()
        ):
            if part not in list(cfg):
                return UNSET
            cfg = cfg._get_node(part)
        elif isinstance(cfg, ListConfig) and part.isdigit() and int(part) < len(cfg):
            cfg = cfg._get_node(int(part))
        else:
            return UNSET
    return cfg


def _value(cfg: DictConfig, key: str) -> Any:
    node = _node(cfg, key)
    return node if isinstance(node, DictConfig | ListConfig) else node._value()


def _scalar_above(cfg: DictConfig, key: str) -> str | None:
    """The nearest key above `key` that holds a plain value, not null."""
    parts = key.split(".")
    for length in range(1, len(parts)):
        path = ".".join(parts[:length])
        node = _node(cfg, path)
        if node is UNSET:
            return None
        if not isinstance(node, DictConfig | ListConfig):
            plain = node._value()
            return None if plain is None or node._is_interpolation() or plain == "???" else path
    return None
