"""The tree of plain values that `config.yaml` keeps: made from a validated object, hashed, read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lmx.config.component import Component, Config
from lmx.config.foreign import read_yaml
from lmx.config.schema import effect_of, fields_of


def plain(config: Any, tree: Any) -> Any:
    """The values of a validated object in the order and with the `_target_`s of the tree it came from."""
    if isinstance(config, Config):
        fields = {info.alias or name: name for name, info in type(config).model_fields.items()}
        found = {}
        for key in tree if isinstance(tree, Mapping) else fields_of(type(config)):
            if key == "_target_" and isinstance(config, Component):
                found[key] = tree[key]
            elif key in fields:
                inner = tree.get(key) if isinstance(tree, Mapping) else None
                found[key] = plain(getattr(config, fields[key]), inner)
        return found
    if isinstance(config, Mapping):
        inside = tree if isinstance(tree, Mapping) else {}
        return {str(key): plain(value, inside.get(str(key))) for key, value in config.items()}
    if isinstance(config, list | tuple | set | frozenset):
        trees = tree if isinstance(tree, list) and len(tree) == len(config) else [None] * len(config)
        return [plain(value, inner) for value, inner in zip(config, trees, strict=True)]
    if isinstance(config, Path):
        return str(config)
    return config


def tree_hash(tree: Mapping[str, Any], schema: type[Config]) -> str:
    """sha256 over the canonical JSON of every key whose change affects numerics or throughput."""

    def keep(node: Any, prefix: str) -> Any:
        if not isinstance(node, Mapping):
            return node
        kept = {}
        for key, value in node.items():
            path = f"{prefix}{key}"
            if effect_of(schema, path, tree) != "bookkeeping":
                kept[key] = keep(value, f"{path}.")
        return kept

    text = json.dumps(keep(tree, ""), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_tree(path: str | Path) -> dict[str, Any]:
    """The tree of a `config.yaml` that `Composed.yaml` wrote."""
    read_yaml(Path(path))  # which OmegaConf would spread out, whatever comes of it
    tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds no configuration: expected keys and values")
    return {str(key): value for key, value in tree.items()}
