"""Token shards on disk: headerless `.bin`, headed `.bin`, and directories of shards with an index.

A headed shard begins with 256 int32: magic, version, number of tokens; then come the tokens. Magic 20240520
with version 1 holds uint16 (llm.c, modded-nanogpt), 20240801 with version 7 uint32 (llm.c). A headerless
shard is nothing but tokens (nanoGPT). A directory of shards holds, for each headed shard, a table of its
documents (`.documents.npy`) and one `index.json`, written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lmx.config.foreign import cut, is_inside, parse_json

if TYPE_CHECKING:
    from lmx.data.tokenizers import TokenizerImpl

HEADER = 256 * 4
MAGIC = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}
INDEX, RECIPE = "index.json", "recipe.json"
VERSION = 1
VERIFY_BYTES = 64 * 2**20
"""Shards together below this are compared with their sha256 when opened; above it only their sizes are."""

DOCUMENT = np.dtype([("key", "<u8"), ("length", "<u4"), ("prompt", "<u4")])
"""A document: a hash of its text, its tokens, and how many of them at the start are never learnt."""


class Shard(NamedTuple):
    """One file of tokens: where they begin in it (bytes), how many they are, their dtype."""

    path: str
    offset: int
    tokens: int
    dtype: np.dtype


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 where ids fit, else uint32."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """`path` holds all that `write` wrote, or what it held before: after a kill too, and with two at once."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically."""
    write_atomically(path, lambda file: file.write(json.dumps(content, indent=1).encode() + b"\n"))


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Writes a headed shard of uint16 or uint32 tokens, atomically."""
    magic, version = next((m, v) for m, (v, dtype) in MAGIC.items() if dtype == tokens.dtype)
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens)

    def write(file: IO[bytes]) -> None:
        file.write(header.tobytes())
        file.write(np.ascontiguousarray(tokens).data)

    write_atomically(path, write)


def open_shard(path: str, *, layout: str, vocab_size: int) -> Shard:
    """Reads the extent of a shard; ValueError when it is empty, cut short, or not of this layout.

    layout: headed | uint16 | uint32 (both headerless) | auto: headed where a header is, else by vocabulary.
    """
    size = os.path.getsize(path)
    if size == 0:
        raise ValueError(f"data.path: {path} is empty")
    with open(path, "rb") as file:
        head = np.frombuffer(file.read(12) if size >= HEADER else b"", "<i4")
    headed = len(head) == 3 and int(head[0]) in MAGIC
    if layout == "headed" and not headed:
        raise ValueError(
            f"data.path: {path} has no shard header (magic 20240520 or 20240801); "
            "set data.layout=uint16 or data.layout=uint32 for a headerless file"
        )
    if layout in ("uint16", "uint32") or not headed:
        dtype = (
            token_dtype(vocab_size) if layout == "auto" else np.dtype("<u2" if layout == "uint16" else "<u4")
        )
        if size % dtype.itemsize:
            raise ValueError(
                f"data.path: {path} has {size} bytes, not a multiple of {dtype.itemsize} "
                f"({dtype.name} tokens): "
                "it is cut short, or of another data.layout"
            )
        if layout == "auto" and dtype.itemsize == 2 and _looks_like_uint32(path):
            raise ValueError(
                f"data.path: {path} looks like uint32 tokens (every second uint16 is 0); set data.layout=uint32, or "
                "data.layout=uint16 where it is none"
            )
        return Shard(path, 0, size // dtype.itemsize, dtype)
    version, dtype = MAGIC[int(head[0])]
    if int(head[1]) != version:
        raise ValueError(f"data.path: {path} has shard version {head[1]}; version {version} is known")
    count = int(head[2])
    wanted = HEADER + count * dtype.itemsize
    if count <= 0 or size != wanted:
        what = "it is cut short" if size < wanted else "it is longer than it says"
        raise ValueError(
            f"data.path: {path} should have {wanted} bytes for the {count} tokens of its header, but has {size}: "
            f"{what}; copy or prepare it again"
        )
    return Shard(path, HEADER, count, dtype)


def _looks_like_uint32(path: str) -> bool:
    head = np.fromfile(path, "<u2", 2**15)
    head = head[: len(head) // 2 * 2]
    return len(head) >= 64 and not head[1::2].any() and bool(head[::2].any())


class TokenStore:
    """The tokens of several shards as one long array, memory-mapped where touched first in each process.

    `vocab_size` given: every read is checked against it. None: the index already proved it.
    """

    def __init__(self, shards: Sequence[Shard], *, vocab_size: int | None):
        self.shards = list(shards)
        self.vocab_size = vocab_size
        self.starts = np.concatenate([[0], np.cumsum([s.tokens for s in shards])]).astype(np.int64)
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_maps": {}}

    def _map(self, index: int) -> np.ndarray:
        found = self._maps.get(index)
        if found is None:
            path, offset, count, dtype = self.shards[index]
            # A memmap's own class makes every slice slow: view it as a plain array.
            found = np.asarray(np.memmap(path, dtype, "r", offset, (count,)))
            self._maps[index] = found
        return found

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens [start, start + count), int32; ValueError when one is outside the vocabulary."""
        index = 0 if len(self.shards) == 1 else int(np.searchsorted(self.starts, start, "right")) - 1
        within = start - int(self.starts[index])
        if within + count <= self.shards[index].tokens:
            tokens = self._map(index)[within : within + count].astype(np.int32)
        else:
            parts, left = [], count
            while left:
                part = self._map(index)[within : within + left]
                parts.append(part)
                left, index, within = left - len(part), index + 1, 0
            tokens = np.concatenate(parts, dtype=np.int32, casting="unsafe")
        if self.vocab_size is not None and count and not 0 <= tokens.min() <= tokens.max() < self.vocab_size:
            self._refuse(start, tokens)
        return tokens

    def prove(self, most: int = 2**28, block: int = 2**20) -> None:
        """Checks up to `most` tokens before any is used, evenly spread, so that a run does not end at a bad one.

        Where these are all, no read is checked any more. ValueError as in `read`.
        """
        assert self.vocab_size is not None
        total = -(-len(self) // block)
        chosen = range(total) if len(self) <= most else np.linspace(0, total - 1, most // block).astype(int)
        for number in chosen:
            start = int(number) * block
            self.read(start, min(block, len(self) - start))
        if len(self) <= most:
            self.vocab_size = None

    def _refuse(self, start: int, tokens: np.ndarray) -> None:
        assert self.vocab_size is not None
        bad = int(np.flatnonzero((tokens < 0) | (tokens >= self.vocab_size))[0])
        index = int(np.searchsorted(self.starts, start + bad, "right")) - 1
        raise ValueError(
            f"data.path: {self.shards[index].path} has token {int(tokens[bad])} at position "
            f"{start + bad - int(self.starts[index])}, outside the vocabulary of {self.vocab_size}; "
            "choose the tokenizer that the shards were made with (tokenizer=...), or a model.vocab_size above "
            "their ids, or the right data.layout"
        )

    def find(self, token: int) -> np.ndarray:
        """Positions, int64, where `token` stands."""
        return np.concatenate(
            [np.flatnonzero(self._map(i) == token) + self.starts[i] for i in range(len(self.shards))]
        )


class Prepared(NamedTuple):
    """A directory of shards: its tokens, its documents (`DOCUMENT`), and its index."""

    store: TokenStore
    documents: np.ndarray
    index: dict


def is_prepared(path: Path) -> bool:
    """Whether `path` is a directory that `prepare` made, or began."""
    return (path / RECIPE).is_file()


def sha256_file(path: str | Path) -> str:
    """sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _other_tokenizer(directory: Path, index: dict[str, Any], tokenizer: TokenizerImpl) -> ValueError:
    """Names both tokenizers, and how the right one is chosen where the index knows it."""
    made = index.get("made_with")
    theirs = f"hash {index['tokenizer'][:12]}" if made is None else made["name"]
    ours = tokenizer.name if made is not None else f"{tokenizer.name}, hash {tokenizer.hash[:12]}"
    choice = " ".join(shlex.quote(word) for word in made["overrides"]) if made is not None else ""
    cure = f"\n    fix: {choice}" if choice else "; choose that tokenizer, or prepare the data again"
    return ValueError(
        f"data.path: {directory} was made with another tokenizer ({theirs}; {index['vocab_size']:,} ids) "
        f"than the configured one ({ours}; {tokenizer.vocab_size:,} ids){cure}"
    )


def _sound(index: Any) -> dict[str, Any]:
    """An index of the right form; KeyError, TypeError or ValueError where it is none."""
    if not isinstance(index, dict):
        raise ValueError("no object")
    if index.get("version") != VERSION:
        return index
    for entry in index["shards"]:
        if not is_inside(entry["file"]) or not isinstance(entry["tokens"], int) or "sha256" not in entry:
            raise ValueError("a shard's name leads elsewhere, or its size is no number")
    if not index["shards"] or not isinstance(index["max_token"], int):
        raise ValueError("there is no shard, or no largest token")
    if index["tokenizer"] is not None and not (
        isinstance(index["tokenizer"], str) and isinstance(index["vocab_size"], int)
    ):
        raise ValueError("its tokenizer is no hash")
    made = index.get("made_with")
    if made is not None and not (isinstance(made["name"], str) and _are_texts(made["overrides"])):
        raise ValueError("the tokenizer that it was made with has no name")
    return index


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _documents(path: Path) -> np.ndarray:
    """A shard's table of documents; ValueError where it is none. No more is read than the file holds."""
    try:
        table = np.array(np.load(path, mmap_mode="r"))
    except (ValueError, EOFError, OverflowError, SyntaxError, TokenError, RecursionError) as error:
        raise ValueError(
            f"data.path: {path} is damaged ({cut(str(error), 200)}); prepare the data again"
        ) from None
    if table.dtype != DOCUMENT or table.ndim != 1:
        raise ValueError(f"data.path: {path} is damaged: no table of documents; prepare the data again")
    return table


def open_prepared(directory: Path, tokenizer: TokenizerImpl, *, vocab_size: int) -> Prepared:
    """Opens what `prepare` made; ValueError when it is unfinished, damaged, or of another tokenizer.

    Where the index records no tokenizer (the documents were ids already), ids need only be below `vocab_size`.
    """
    try:
        index = _sound(parse_json((directory / INDEX).read_bytes()))
    except FileNotFoundError:
        raise ValueError(
            f"data.path: {directory} has no {INDEX}; its preparation did not finish: run lmx data "
            "prepare again"
        ) from None
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"data.path: {directory / INDEX} is damaged: not the JSON that was written; prepare the data again"
        ) from None
    if index.get("version") != VERSION:
        raise ValueError(
            f"data.path: {directory / INDEX} has another version than {VERSION}; prepare the data again"
        )
    if index["tokenizer"] not in (None, tokenizer.hash):
        raise _other_tokenizer(directory, index, tokenizer)
    if index["max_token"] >= vocab_size:
        raise ValueError(
            f"data.path: {directory} has token {index['max_token']}, outside the vocabulary of {vocab_size}; "
            "choose the tokenizer that it was made with (tokenizer=...), or a model.vocab_size above its ids"
        )
    verify = sum(shard["tokens"] for shard in index["shards"]) * 2 <= VERIFY_BYTES
    shards, tables = [], []
    for entry in index["shards"]:
        path = directory / entry["file"]
        try:
            shard = open_shard(str(path), layout="headed", vocab_size=vocab_size)
            table = _documents(path.with_suffix(".documents.npy"))
        except FileNotFoundError as error:
            raise ValueError(f"data.path: {error.filename} is missing; prepare the data again") from None
        intact = shard.tokens == entry["tokens"] == int(table["length"].sum(dtype=np.int64))
        if not intact or (verify and sha256_file(path) != entry["sha256"]):
            raise ValueError(
                f"data.path: {path} is damaged (not what its index says); delete {directory} and "
                "prepare it again"
            )
        shards.append(shard)
        tables.append(table)
    return Prepared(TokenStore(shards, vocab_size=None), np.concatenate(tables), index)
