"""A checker for the part of JSON Schema that the generated schemas use."""

from __future__ import annotations

import re
from typing import Any

_TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "number": (int, float),
}  # fmt: skip


def _is(value: Any, name: str) -> bool:
    if name == "integer":
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return whole and not isinstance(value, bool)
    if name == "number" and isinstance(value, bool):
        return False
    return isinstance(value, _TYPES[name])


def complaints(value: Any, schema: Any, root: Any, path: str = "") -> list[str]:
    """What is wrong with `value`, in words; [] where it fits."""
    if schema is True:
        return []
    if "$ref" in schema:
        return complaints(value, root["definitions"][schema["$ref"].rpartition("/")[2]], root, path)
    found: list[str] = []
    if "anyOf" in schema:
        tries = [complaints(value, part, root, path) for part in schema["anyOf"]]
        if all(tries):
            found += min(tries, key=len)
    if "const" in schema and value != schema["const"]:
        found.append(f"{path}: not {schema['const']}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: {value!r} not in {schema['enum']}")
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is(value, name) for name in names):
            return [*found, f"{path}: {value!r} is no {names}"]
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        found.append(f"{path}: {value!r} does not match")
    for name, wrong in (
        ("minimum", lambda v, limit: v < limit),
        ("exclusiveMinimum", lambda v, limit: v <= limit),
        ("maximum", lambda v, limit: v > limit),
        ("exclusiveMaximum", lambda v, limit: v >= limit),
    ):
        if name in schema and isinstance(value, int | float) and wrong(value, schema[name]):
            found.append(f"{path}: {value} breaks {name} {schema[name]}")
    if isinstance(value, dict):
        properties, extra = schema.get("properties", {}), schema.get("additionalProperties", True)
        for key, inner in value.items():
            if key in properties:
                found += complaints(inner, properties[key], root, f"{path}.{key}")
            elif extra is False:
                found.append(f"{path}.{key}: unknown")
            elif extra is not True:
                found += complaints(inner, extra, root, f"{path}.{key}")
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += complaints(item, schema["items"], root, f"{path}.{index}")
    return found
