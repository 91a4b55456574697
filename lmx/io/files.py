"""Files that are whole or not there: atomic writes, valid JSON whatever the numbers, checksums."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lmx.config.foreign import parse_json

HASH_THREADS = 4
_BLOCK = 1 << 22


def sync_directory(path: Path) -> None:
    """Makes a rename inside `path` survive a loss of power, where the file system can."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse to sync a directory; the rename itself is still atomic
    finally:
        os.close(handle)


def write_atomic(path: Path, text: str, *, sync: bool = False) -> None:
    """Writes `path` so that a reader sees the old contents or the new ones, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_directory(path.parent)


def to_plain(value: Any) -> Any:
    """`value` as dicts, lists and Python scalars; numbers that are not finite stay floats."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and jax
        return to_plain(value.tolist())
    return str(value)


def spell_number(value: float) -> float | str:
    """The number itself, or the text `NaN`, `Infinity`, `-Infinity`, which JSON cannot write as numbers."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def to_json(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Valid JSON: what is not a finite number becomes its name as text (`spell_number`)."""

    def spelled(node: Any) -> Any:
        if isinstance(node, float):
            return spell_number(node)
        if isinstance(node, dict):
            return {key: spelled(inner) for key, inner in node.items()}
        return [spelled(inner) for inner in node] if isinstance(node, list) else node

    return json.dumps(
        spelled(to_plain(value)), indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False
    )


def read_json(path: Path) -> Any:
    """The contents of a JSON file, or None where it is missing or not whole."""
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file's contents."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        block = bytearray(_BLOCK)
        view = memoryview(block)
        while count := stream.readinto(block):
            digest.update(view[:count])
    return digest.hexdigest()


def map_files(function: Callable[[Path], Any], paths: Iterable[Path]) -> list[Any]:
    """`function` of each path in order, in a few threads: hashing runs outside the interpreter's lock."""
    with ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="lmx-hash") as pool:
        return list(pool.map(function, paths))
