"""Where each value was set: file and line, or the override on the command line. The last definition wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override

from lmx.config.files import show_path
from lmx.config.sources import Tree, yaml_node

Origins = dict[str, str]


def command_line(override: str) -> str:
    """The origin of what an override sets."""
    return f"command line: {override}"


def _line(path: Path, node: yaml.Node) -> str:
    return f"{show_path(path)}:{node.start_mark.line + 1}"


def _collect(node: yaml.Node, prefix: str, path: Path, found: Origins) -> None:
    """Adds the origin of every key of a mapping node, of its entries, and of list items."""
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key = f"{prefix}.{key_node.value}" if prefix else str(key_node.value)
            if isinstance(value_node, yaml.ScalarNode | yaml.SequenceNode):
                _forget(found, key)
            found[key] = _line(path, key_node)
            _collect(value_node, key, path, found)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            found[f"{prefix}.{index}"] = _line(path, item)
            _collect(item, f"{prefix}.{index}", path, found)


def _forget(found: Origins, key: str) -> None:
    for inner in [k for k in found if k.startswith(f"{key}.")]:
        del found[inner]


def file_origins(path: Path, package: str = "") -> Origins:
    """Origins of the keys of one file, placed under `package`."""
    found: Origins = {}
    node = yaml_node(path)
    if isinstance(node, yaml.MappingNode):
        body = [(k, v) for k, v in node.value if package or k.value not in ("hydra",)]
        body = [(k, v) for k, v in body if k.value != "defaults"]
        if package:
            found[package] = f"{show_path(path)}:1"
        _collect(yaml.MappingNode(node.tag, body, node.start_mark, node.end_mark), package, path, found)
    return found


def origins_of(tree: Tree, defaults: Sequence[ResultDefault], overrides: Sequence[Override]) -> Origins:
    """Full path -> origin, following Hydra's merge order, then the overrides of values."""
    found: Origins = {}
    for default in defaults:
        if default.config_path is None or default.config_path.startswith("hydra/"):
            continue
        path = tree.file(default.config_path)
        if path is not None and path.is_file():
            found.update(file_origins(path, default.package or ""))
    for override in overrides:
        set_by_override(found, override)
    return found


def set_by_override(found: Origins, override: Override) -> None:
    """Records that an override of a value set its key, and everything inside."""
    key = override.key_or_group
    source = command_line(override.input_line or key)
    value: Any = None if override.is_sweep_override() else override.value()
    if not isinstance(value, Mapping):
        _forget(found, key)
    found[key] = source
    parent = key.rpartition(".")[0]
    while parent and parent not in found:
        found[parent] = source
        parent = parent.rpartition(".")[0]
    _spread(found, key, value, source)


def _spread(found: Origins, key: str, value: Any, source: str) -> None:
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for name, inner in items:
        found[f"{key}.{name}"] = source
        _spread(found, f"{key}.{name}", inner, source)


def origin_of(origins: Mapping[str, str], key: str) -> str | None:
    """The origin of a key, or of the nearest node around it."""
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return None


def default_entry(tree: Tree, config_path: str, group: str) -> str | None:
    """File and line where the defaults list of a configuration chooses an option of `group`."""
    path = tree.file(config_path)
    if path is None or not path.is_file():
        return None
    node = yaml_node(path)
    for key_node, value_node in node.value if isinstance(node, yaml.MappingNode) else ():
        if key_node.value != "defaults" or not isinstance(value_node, yaml.SequenceNode):
            continue
        for item in value_node.value:
            pairs = item.value if isinstance(item, yaml.MappingNode) else [(item, item)]
            for name, _ in pairs:
                if str(name.value).split(" ")[-1].split("@")[0].lstrip("/") == group.lstrip("/"):
                    return _line(path, name)
    return show_path(path)
