"""What stands in files that others wrote: JSON of any depth, names of files, keys and values to be told of."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml


def parse_json(text: str | bytes) -> Any:
    """`json.loads`; whatever is wrong is a JSONDecodeError: bytes, nesting, numbers of too many digits."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        reason = "nested too deeply"
    except UnicodeDecodeError:
        reason = "not UTF-8"
    except ValueError as error:
        reason = str(error)
    raise json.JSONDecodeError(reason, "", 0) from None


def quoted(value: Any, limit: int = 72) -> str:
    """A value as JSON for a message: one line of ASCII, at most `limit` characters of it."""
    try:
        text = json.dumps(value)
    except (RecursionError, TypeError, ValueError):
        return f"a {type(value).__name__}"
    return cut(text, limit)


def quoted_key(key: Any, limit: int = 48) -> str:
    """A key for a message: as it is where it is a short word, otherwise as `quoted`."""
    text = str(key)
    return (
        text if len(text) <= limit and text.isprintable() and text.isascii() and text else quoted(text, limit)
    )


def quoted_keys(keys: Iterable[Any], most: int = 12) -> str:
    """Keys for a message, in order: at most so many."""
    known = sorted(map(quoted_key, keys))
    return ", ".join([*known[:most], *([f"{len(known) - most} more"] if len(known) > most else [])])


def cut(text: str, limit: int) -> str:
    """A text of at most `limit` characters; what is missing at its end is told of by `...`."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


MOST_NODES = 200_000
"""Values that a configuration may have."""


def check_tree(tree: Any) -> None:
    """ValueError where a YAML document is endless, or grows out of all proportion by what its aliases repeat."""
    sizes: dict[int, int] = {}
    waiting = [tree]
    while waiting:
        node = waiting[-1]
        inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        parts = [part for part in inner if isinstance(part, dict | list)]
        new = [part for part in parts if id(part) not in sizes]
        if id(node) not in sizes and new:
            sizes[id(node)] = MOST_NODES  # where it comes again before it is counted, it holds itself
            waiting += new
            continue
        waiting.pop()
        sizes[id(node)] = len(inner) + 1 + sum(sizes[id(part)] for part in parts)
        if sizes[id(node)] > MOST_NODES:
            raise ValueError("it holds itself, or repeats itself by aliases (&, *) without measure")


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, by the safe loader. ValueError where that is none, or one of `check_tree`; OSError."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except (RecursionError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is no YAML: {cut(str(error), 300)}") from None
    try:
        check_tree(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return found


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def is_inside(name: Any) -> bool:
    """Whether `name` is that of a file in a folder or below it: relative, and without `..`."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and str(path) != "."
