"""Safetensors files: what is in them, read by rows without mapping files into memory, and written in shards.

The header is read here rather than by the library, whose memory-mapped pages would count as memory of the process
for as long as a file is open; here a tensor is read in pieces of a few megabytes straight to where it belongs.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from lmx.config.errors import RequestError
from lmx.config.foreign import is_inside, parse_json, quoted, quoted_key

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_HEADER_LIMIT = 100_000_000


class Entry(NamedTuple):
    """Where a tensor lies: file, element type, shape, first byte."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def n_bytes(self) -> int:
        """Size on disk."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> np.ndarray:
        """See `read_rows`."""
        return read_rows(self, start, stop)


def read_header(file: Path) -> dict[str, Entry]:
    """Name -> Entry of every tensor in a file; RequestError when it is missing, truncated or no safetensors file."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise RequestError(f"{file}: is truncated, or no safetensors file; copy it again")
            header = parse_json(stream.read(length))
    except FileNotFoundError:
        raise RequestError(f"{file}: no such file") from None
    except json.JSONDecodeError:
        header = None
    if not isinstance(header, dict):
        raise RequestError(f"{file}: its header is damaged; copy it again")
    header.pop("__metadata__", None)
    entries = {}
    for name, told in header.items():
        try:
            (start, end), shape = told["data_offsets"], tuple(told["shape"])
            kind = told["dtype"]
        except (KeyError, TypeError, ValueError):
            raise RequestError(f"{file}: its header is damaged at {name}; copy it again") from None
        # No side of an array is longer than the file says it is; an empty one too claims no more.
        counts = (start, end, *shape)
        numbers = all(type(n) is int and n >= 0 for n in counts)
        if not isinstance(kind, str) or not numbers or max(shape, default=0) > max(size, end):
            raise RequestError(f"{file}: its header is damaged at {name}; copy it again")
        if kind not in DTYPES:
            raise RequestError(f"{file}: {name} has the element type {kind}, which is not read here")
        entry = Entry(file, DTYPES[kind], shape, 8 + length + start)
        if end - start != entry.n_bytes:
            raise RequestError(f"{file}: its header is damaged at {name}; copy it again")
        if 8 + length + end > size:
            raise RequestError(
                f"{file}: is truncated: it has {size:,} bytes, but {name} reaches to {8 + length + end:,}; "
                "copy it again"
            )
        entries[name] = entry
    return entries


def _is_file(path: Path) -> bool:
    """As `Path.is_file`; False also where no file can have such a name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def find_tensors(folder: Path) -> dict[str, Entry]:
    """Name -> Entry of every tensor of a checkpoint directory, through its index where it has one.

    RequestError for a missing shard, a tensor that its shard lacks, and where there are no safetensors.
    """
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise RequestError(_none(folder))
    try:
        weight_map: dict[str, str] = parse_json((folder / INDEX).read_bytes())["weight_map"]
        files = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(
            f"{folder / INDEX}: is damaged: no JSON with a weight_map; copy it again"
        ) from None
    if outside := [name for name in files if not is_inside(name)]:
        raise RequestError(
            f"{folder / INDEX}: names {quoted(outside[0])}, a file outside of {folder}; copy it again"
        )
    missing = [quoted_key(name) for name in files if not _is_file(folder / name)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RequestError(f"{folder}: {INDEX} names {missing[0]}{more}, which is not there; copy it too")
    entries: dict[str, Entry] = {}
    for name in files:
        entries |= read_header(folder / name)
    for tensor, name in weight_map.items():
        if tensor not in entries:
            raise RequestError(f"{folder / name}: lacks {quoted_key(tensor)}, which {INDEX} says it holds")
    return entries


def _none(folder: Path) -> str:
    """What to say of a directory without safetensors."""
    pickled = sorted(p.name for p in folder.glob("pytorch_model*.bin"))
    if not pickled:
        return f"{folder}: has no {SINGLE} and no {INDEX}"
    return (
        f"{folder}: has only {pickled[0]}, a pickle, which can run any code when it is opened and is never read here; "
        "convert it where transformers is installed:\n"
        '    python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
        f"[x.from_pretrained('{folder}').save_pretrained('{folder}-safetensors') for x in (M, T)]\""
    )


def read_rows(entry: Entry, start: int, stop: int) -> np.ndarray:
    """Rows start..stop-1 of a tensor (its first axis), in its own dtype; a scalar is one row."""
    shape = entry.shape or (1,)
    row = math.prod(shape[1:])
    raw = np.fromfile(
        entry.file,
        np.uint8,
        (stop - start) * row * entry.dtype.itemsize,
        offset=entry.start + start * row * entry.dtype.itemsize,
    )
    return raw.view(entry.dtype).reshape((stop - start, *shape[1:]))


def blocks(entry: Entry, limit: int = 1 << 23) -> Iterator[np.ndarray]:
    """A tensor's rows in pieces of about `limit` bytes."""
    rows = (entry.shape or (1,))[0]
    step = max(1, limit // max(entry.n_bytes // max(rows, 1), 1))
    for start in range(0, rows, step):
        yield read_rows(entry, start, min(start + step, rows))


class Written(NamedTuple):
    """A tensor to write: its name, shape, dtype, and a function that makes it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def n_bytes(self) -> int:
        """Size on disk."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(folder: Path, tensors: Iterable[Written], *, shard_bytes: int) -> list[Path]:
    """Writes a checkpoint: one file, or shards of at most `shard_bytes` (a larger tensor alone) with an index."""
    shards: list[list[Written]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(t.n_bytes for t in shards[-1]) + tensor.n_bytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        _write(folder / SINGLE, shards[0])
        return [folder / SINGLE]
    files = [folder / f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards, strict=True):
        _write(file, shard)
    index: dict[str, Any] = {
        "metadata": {"total_size": sum(t.n_bytes for shard in shards for t in shard)},
        "weight_map": {t.name: f.name for f, shard in zip(files, shards, strict=True) for t in shard},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return files


def _write(file: Path, tensors: list[Written]) -> None:
    """One file, a tensor at a time, so that no more than one is in memory."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for t in tensors:
        header[t.name] = {
            "dtype": names[t.dtype],
            "shape": list(t.shape),
            "data_offsets": [at, at + t.n_bytes],
        }
        at += t.n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for t in tensors:
            made = t.make()
            assert made.shape == t.shape, (t.name, made.shape, t.shape)
            stream.write(np.ascontiguousarray(made, t.dtype).tobytes())
