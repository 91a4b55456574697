"""What stands in files that others wrote: JSON of any depth, and names of files that must not lead elsewhere."""

from __future__ import annotations

import json
import os
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
