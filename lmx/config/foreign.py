"""What stands in files that others wrote: JSON of any depth, names of files, keys and values to be told of."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any


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
