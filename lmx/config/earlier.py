"""Configurations frozen by earlier versions: keys that came since, with the value that does what was done before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.config.component import Config
from lmx.config.plain_tree import read_tree
from lmx.config.schema import classes_at, fields_of, inside_of, told_by


def read_frozen(path: str | Path, schema: type[Config]) -> dict[str, Any]:
    """The tree of a frozen `config.yaml`, made whole by `completed`. ValueError, OSError where it cannot be read."""
    return completed(read_tree(path), schema)


def completed(tree: Mapping[str, Any], schema: type[Config]) -> dict[str, Any]:
    """A resolved tree with the keys that it lacks and whose field tells `before`; a copy.

    Keys without `before` stay absent: what runs without them did cannot be said by a value, and validation names them.
    """
    return _completed(tree, schema)


def _completed(value: Any, annotation: Any) -> Any:
    inside = inside_of(annotation)
    if isinstance(value, list):
        return [_completed(inner, inside) for inner in value]
    if not isinstance(value, Mapping):
        return value
    found = {str(key): _completed(inner, inside) for key, inner in value.items()}
    classes = classes_at(annotation, value)
    fields = fields_of(classes[0]) if len(classes) == 1 else {}
    for key, info in fields.items():
        if key in value:
            found[key] = _completed(value[key], info.annotation)
        elif "before" in told_by(info):
            found[key] = told_by(info)["before"]
    return found
