"""Text -> directories of token shards, part by part, in parallel, and resumable after a kill.

Each part of a source becomes one shard; a shard's record is written after it, and the index after all
records. Two processes that prepare the same directory write the same bytes, so neither disturbs the other.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmx.data.shards import (
    DOCUMENT,
    INDEX,
    RECIPE,
    VERSION,
    sha256_file,
    token_dtype,
    write_atomically,
    write_json,
    write_shard,
)
from lmx.data.sources import Document, Part, Source, document_key, file_stamps
from lmx.data.tokenizers import TokenizerImpl, fingerprint

PART_BYTES = 32 * 2**20
_BATCH_BYTES = 2**20

Progress = Callable[[int, int], None]
"""Called with parts done and parts in all."""


class Recipe(NamedTuple):
    """All, apart from the source's files, that decides which tokens come out.

    boundary        which special ids stand around each document: eos | bos | both | none
    invalid_utf8    what becomes of text that is not UTF-8: error | replace | skip
    overrides       how a command chooses the tokenizer, told to whoever uses another; decides nothing
    """

    source: Source
    tokenizer: TokenizerImpl
    boundary: str
    invalid_utf8: str
    part_bytes: int = PART_BYTES
    overrides: tuple[str, ...] = ()

    def key(self) -> str:
        """A hash of the recipe and of its files' paths, sizes and times of change."""
        return fingerprint(
            version=VERSION,
            settings=self.source.settings(),
            files=file_stamps(self.source.files),
            tokenizer=self.tokenizer.hash,
            boundary=self.boundary,
            invalid_utf8=self.invalid_utf8,
            part_bytes=self.part_bytes,
        )


class _Encoded(NamedTuple):
    tokens: np.ndarray
    documents: np.ndarray
    text_sha256: str
    bytes: int
    empty: int
    skipped: int
    replaced: int


def boundary_ids(tokenizer: TokenizerImpl, boundary: str) -> tuple[list[int], list[int]]:
    """The ids before and after each document; ValueError when the tokenizer has no such id."""
    wanted = {"eos": ("eos",), "bos": ("bos",), "both": ("bos", "eos"), "none": ()}[boundary]
    for name in wanted:
        if getattr(tokenizer, f"{name}_id") is None:
            raise ValueError(
                f"data.document_boundary={boundary}, but the tokenizer has no {name} token; "
                f"set tokenizer.{name}, or data.document_boundary=none"
            )
    before = [tokenizer.bos_id] if "bos" in wanted else []
    after = [tokenizer.eos_id] if "eos" in wanted else []
    return [i for i in before if i is not None], [i for i in after if i is not None]


def as_text(raw: bytes, place: str, invalid_utf8: str, *, nul_ends: bool = False) -> tuple[str | None, bool]:
    """The text (None: to be skipped), and whether anything in it was replaced; ValueError under `error`.

    `nul_ends`: the tokenizer ends a text with NUL, so that one inside would cut it in two.
    """
    fault = None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        fault = f"byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8"
        text = raw.decode("utf-8", "replace")
    if nul_ends and "\0" in text:
        fault = fault or f"character {text.index(chr(0))} is NUL, with which the bytes tokenizer ends a text"
        text = text.replace("\0", "\ufffd")
    if fault is None or invalid_utf8 == "replace":
        return text, fault is not None
    if invalid_utf8 == "skip":
        return None, False
    raise ValueError(f"data: {place}: {fault}; set data.invalid_utf8=replace or data.invalid_utf8=skip")


class _Encoder:
    """Collects documents, encodes them in batches, and counts what becomes of them."""

    def __init__(self, recipe: Recipe):
        self.recipe, self.tokenizer = recipe, recipe.tokenizer
        self.dtype = token_dtype(recipe.tokenizer.vocab_size)
        before, after = boundary_ids(recipe.tokenizer, recipe.boundary)
        self.before, self.after = np.asarray(before, self.dtype), np.asarray(after, self.dtype)
        self.nothing = np.zeros(0, self.dtype)
        self.nul_ends = recipe.tokenizer.encode("\0").tolist() == [recipe.tokenizer.eos_id]
        self.digest = hashlib.sha256()
        self.chunks: list[np.ndarray] = []
        self.rows: list[tuple[int, int, int]] = []
        self.waiting: list[tuple[int, str, str, np.ndarray, np.ndarray]] = []
        self.size = self.bytes = self.empty = self.skipped = self.replaced = 0

    def add(self, document: Document) -> None:
        """One more document."""
        if document.ids is not None:
            self._add_ids(document, document.ids)
            return
        self.digest.update(document.prompt + document.text)
        policy, place = self.recipe.invalid_utf8, document.place
        text, replaced = as_text(document.text, place, policy, nul_ends=self.nul_ends)
        prompt, replaced_too = as_text(document.prompt, place, policy, nul_ends=self.nul_ends)
        if text is None or prompt is None:
            self.skipped += 1
        elif not text:
            self.empty += 1
        else:
            self.replaced += replaced or replaced_too
            self.bytes += len(document.text) + len(document.prompt)
            around = (
                self.before if document.begins else self.nothing,
                self.after if document.ends else self.nothing,
            )
            self.waiting.append((document_key(document), prompt, text, *around))
            self.size += len(document.text)
            if self.size >= _BATCH_BYTES:
                self.flush()

    def _add_ids(self, document: Document, ids: np.ndarray) -> None:
        if not len(ids):
            self.empty += 1
            return
        _check_ids(ids, document.place, self.tokenizer.vocab_size)
        self.digest.update(ids.tobytes())
        self.bytes += ids.nbytes
        self._put(document_key(document), self.before, ids, self.after, 0)

    def _put(self, key: int, lead: np.ndarray, ids: np.ndarray, after: np.ndarray, prompt: int) -> None:
        self.chunks.append(np.concatenate([lead, ids.astype(self.dtype), after]))
        self.rows.append((key, len(self.chunks[-1]), prompt))

    def flush(self) -> None:
        """Encodes what waits."""
        texts = self.tokenizer.encode_batch([text for _, _, text, _, _ in self.waiting])
        prompts = iter(self.tokenizer.encode_batch([prompt for _, prompt, *_ in self.waiting if prompt]))
        for (key, prompt, _, before, after), ids in zip(self.waiting, texts, strict=True):
            if prompt:
                lead = np.concatenate([before, next(prompts).astype(self.dtype)])
                self._put(key, lead, ids, after, len(lead))
            else:
                self._put(key, before, ids, after, 0)
        self.waiting.clear()
        self.size = 0

    def result(self) -> _Encoded:
        """All tokens and documents so far."""
        self.flush()
        tokens = np.concatenate(self.chunks) if self.chunks else np.zeros(0, self.dtype)
        counts = (self.bytes, self.empty, self.skipped, self.replaced)
        return _Encoded(tokens, np.array(self.rows, DOCUMENT), self.digest.hexdigest(), *counts)


def _encode_part(recipe: Recipe, part: Part) -> _Encoded:
    encoder = _Encoder(recipe)
    for document in recipe.source.documents(part):
        encoder.add(document)
    return encoder.result()


def _check_ids(ids: np.ndarray, place: str, vocab_size: int) -> None:
    if int(ids.max()) >= vocab_size:
        raise ValueError(
            f"data.path: {place} has token {int(ids.max())}, outside the vocabulary of {vocab_size}; "
            "choose the tokenizer that the records were made with"
        )


def _prepare_part(recipe: Recipe, directory: Path, number: int, part: Part) -> dict[str, Any]:
    """Writes shard `number` and its record; returns the record."""
    encoded = _encode_part(recipe, part)
    record: dict[str, Any] = {"tokens": len(encoded.tokens), "documents": len(encoded.documents)}
    record |= {
        name: getattr(encoded, name) for name in ("text_sha256", "bytes", "empty", "skipped", "replaced")
    }
    if len(encoded.tokens):
        path = directory / f"{number:05d}.bin"
        write_shard(path, encoded.tokens)
        write_atomically(path.with_suffix(".documents.npy"), lambda file: np.save(file, encoded.documents))
        record |= {"file": path.name, "sha256": sha256_file(path), "max_token": int(encoded.tokens.max())}
    write_json(_record_path(directory, number), record)
    return record


def _record_path(directory: Path, number: int) -> Path:
    return directory / f"{number:05d}.json"


_worker: dict[str, Any] = {}


def _start_worker(recipe: Recipe, directory: Path) -> None:
    _worker.update(recipe=recipe, directory=directory)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(number: int, part: Part) -> dict[str, Any]:
    return _prepare_part(_worker["recipe"], _worker["directory"], number, part)


def _run(
    recipe: Recipe, directory: Path, todo: list[tuple[int, Part]], workers: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    if min(workers, len(todo)) <= 1:
        for number, part in todo:
            yield number, _prepare_part(recipe, directory, number, part)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=context, initializer=_start_worker, initargs=(recipe, directory)
    )
    try:
        queue = iter(todo)
        running: dict[Future, int] = {}
        for number, part in queue:
            running[pool.submit(_work, number, part)] = number
            if len(running) >= 2 * workers:
                yield from _finished(running)
        while running:
            yield from _finished(running)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(running: dict[Future, int]) -> Iterator[tuple[int, dict[str, Any]]]:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        yield running.pop(future), future.result()


def prepare(
    recipe: Recipe, directory: Path, *, workers: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Makes `directory` hold the source's tokens; returns its index. Goes on where an earlier call was
    stopped.

    ValueError when the directory belongs to another recipe, cannot be written, or the source has no text.
    """
    key = recipe.key()
    done = _existing_index(directory, key)
    if done is not None:
        return done
    boundary_ids(recipe.tokenizer, recipe.boundary)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / RECIPE, {"key": key})
    except OSError as error:
        raise ValueError(
            f"{directory} cannot be written ({error.strerror}); choose another directory"
        ) from None
    parts = recipe.source.parts(recipe.part_bytes)
    records = {number: record for number in range(len(parts)) if (record := _read_record(directory, number))}
    todo = [(number, part) for number, part in enumerate(parts) if number not in records]
    if progress:
        progress(len(records), len(parts))
    for number, record in _run(recipe, directory, todo, workers):
        records[number] = record
        if progress:
            progress(len(records), len(parts))
    index = _make_index(recipe, key, [records[number] for number in range(len(parts))])
    if not index["shards"]:
        files = ", ".join(recipe.source.files[:3])
        raise ValueError(f"data: no text in {files}: every document is empty or was skipped")
    write_json(directory / INDEX, index)
    return index


def discard(directory: Path) -> None:
    """Forgets what was prepared in `directory`, so that `prepare` does it anew; shards stay until then."""
    for path in sorted(directory.glob("*.json"), key=lambda path: path.name != INDEX):
        if path.name != RECIPE:
            path.unlink(missing_ok=True)


def _existing_index(directory: Path, key: str) -> dict[str, Any] | None:
    recipe, index = directory / RECIPE, directory / INDEX
    if recipe.is_file() and json.loads(recipe.read_text())["key"] != key:
        raise ValueError(
            f"{directory} holds the shards of other files or settings; choose another directory, or delete it"
        )
    if not recipe.is_file() and directory.is_dir() and any(p.name[0] != "." for p in directory.iterdir()):
        raise ValueError(f"{directory} is not empty; choose a new directory")
    return json.loads(index.read_text(encoding="utf-8")) if index.is_file() else None


def _read_record(directory: Path, number: int) -> dict[str, Any] | None:
    try:
        return json.loads(_record_path(directory, number).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _make_index(recipe: Recipe, key: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    ids_only = all(name in ("uint16", "uint32") for name in [recipe.source.settings().get("record")])
    totals = {
        name: sum(record[name] for record in records)
        for name in ("tokens", "documents", "bytes", "empty", "skipped", "replaced")
    }
    shards = [r for r in records if r["tokens"]]
    return {
        "version": VERSION,
        "key": key,
        "tokenizer": None if ids_only else recipe.tokenizer.hash,
        "vocab_size": recipe.tokenizer.vocab_size,
        "made_with": None
        if ids_only
        else {"name": recipe.tokenizer.name, "overrides": list(recipe.overrides)},
        "dtype": token_dtype(recipe.tokenizer.vocab_size).name,
        "document_boundary": recipe.boundary,
        "invalid_utf8": recipe.invalid_utf8,
        "source": recipe.source.settings(),
        **totals,
        "max_token": max((r["max_token"] for r in shards), default=-1),
        "sources": [{"path": path, "size": size} for path, size, _ in file_stamps(recipe.source.files)],
        "shards": [
            {n: r[n] for n in ("file", "tokens", "documents", "sha256", "text_sha256")} for r in shards
        ],
    }


def default_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
