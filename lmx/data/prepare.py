"""Text -> directories of token shards, part by part, in parallel, and resumable after a kill.

Each part of a source becomes one shard; a shard's record is written after it, and the index after all
records. Two processes that prepare the same directory write the same bytes, so neither disturbs the other.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from lmx.data.encoding import Recipe, boundary_ids, encode_part
from lmx.data.shards import (
    INDEX,
    RECIPE,
    VERSION,
    sha256_file,
    token_dtype,
    write_atomically,
    write_json,
    write_shard,
)
from lmx.data.sources import Part, file_stamps

Progress = Callable[[int, int], None]
"""Called with parts done and parts in all."""


def _prepare_part(recipe: Recipe, directory: Path, number: int, part: Part) -> dict[str, Any]:
    """Writes shard `number` and its record; returns the record."""
    encoded = encode_part(recipe, part)
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
