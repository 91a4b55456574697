"""A `Dataset`: two sides, for training and for evaluation, each random access by example."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grain
import numpy as np

from lmx.config.text import counted
from lmx.data.encoding import Recipe
from lmx.data.files import find_files
from lmx.data.packing import PackedRows, Rows, View, WindowRows, make_rows, mix64
from lmx.data.prepare import default_workers, discard, prepare
from lmx.data.shards import INDEX, Prepared, Shard, TokenStore, is_prepared, open_prepared, open_shard
from lmx.data.sources import Source
from lmx.types import Batch

if TYPE_CHECKING:
    from lmx.data import config, corpus_config
    from lmx.data.tokenizers import TokenizerImpl

log = logging.getLogger("lmx.data")


class Dataset(NamedTuple):
    """What a run reads.

    train               endless: train[i] is example i, a `Batch` of arrays [T]; a new order each epoch
    eval                finite, in a fixed order
    examples_per_epoch  rows that go over the training text once
    tokens_per_epoch    inputs of those rows that are not padding
    description         documents, tokens, bytes, packing and the like, JSON-able
    """

    train: grain.MapDataset
    eval: grain.MapDataset
    examples_per_epoch: int
    tokens_per_epoch: int
    description: dict[str, Any]


def row(side: grain.MapDataset, index: int) -> Batch:
    """Example `index` of a side."""
    found = side[index]
    assert isinstance(found, Batch)
    return found


def endless(rows: Rows, seed: int) -> grain.MapDataset:
    """Rows in an order that differs each epoch, each epoch a permutation. Row windows are random already."""
    source = grain.MapDataset.source(rows)
    if isinstance(rows, WindowRows):
        return source
    return source.seed(mix64(seed, 1) % 2**32).shuffle().repeat()


def make_dataset(
    train: View, evaluation: View, options: config.Rows, wanted: config.RowSpec, *, about: dict[str, Any]
) -> Dataset:
    """Rows over both views; ValueError when one has too little text for a row.

    Where `wanted.whole`, the training view is not looked at.
    """
    sequence_length = wanted.sequence_length
    kinds = {"packing": options.packing, "windows": options.windows, "seed": mix64(wanted.seed, 2)}
    eval_rows = make_rows(evaluation, sequence_length, train=False, **kinds)
    if wanted.whole:
        return _evaluated_whole(evaluation, eval_rows, sequence_length, about)
    train_rows = make_rows(train, sequence_length, train=True, **kinds)
    if not len(train_rows):
        raise ValueError(
            f"data: {counted(len(train), 'token')} to train on: too few for one row of trainer.sequence_length="
            f"{sequence_length} (it takes {sequence_length + 1}); read more text, or shorten the sequence"
        )
    if not len(eval_rows):
        raise ValueError(
            f"data: nothing to evaluate on ({counted(len(evaluation.starts), 'document')}, "
            f"{counted(len(evaluation), 'token')}); "
            "raise data.split.fraction, or set data.split.by=tail"
        )
    per_epoch = (
        train_rows.tokens // sequence_length if isinstance(train_rows, WindowRows) else len(train_rows)
    )
    description = {
        **about,
        "packing": options.packing,
        "windows": options.windows,
        "train": describe(train, train_rows, per_epoch, sequence_length),
        "eval": describe(evaluation, eval_rows, len(eval_rows), sequence_length),
    }
    return Dataset(
        endless(train_rows, wanted.seed),
        grain.MapDataset.source(eval_rows),
        per_epoch,
        train_rows.tokens,
        description,
    )


def _evaluated_whole(view: View, rows: Rows, sequence_length: int, about: dict[str, Any]) -> Dataset:
    if not len(rows):
        raise ValueError(f"data: nothing to evaluate on ({counted(len(view), 'token')}); read more text")
    about = {**about, "eval": describe(view, rows, len(rows), sequence_length)}
    return Dataset(grain.MapDataset.source([]), grain.MapDataset.source(rows), 0, 0, about)


def describe(view: View, rows: Rows, examples: int, sequence_length: int) -> dict[str, Any]:
    """Counts of one side, and how its documents' lengths spread: a power of two -> documents below it."""
    exponents, counts = np.unique(np.ceil(np.log2(view.lengths + 1)).astype(int), return_counts=True)
    left_out = (
        len(view) - len(view.starts) - rows.tokens
        if isinstance(rows, PackedRows) and not rows.segments
        else 0
    )
    return {
        "documents": len(view.starts),
        "tokens": len(view),
        "examples": examples,
        "fill": round(rows.tokens / max(examples * sequence_length, 1), 4),
        "tokens_cut_off": max(left_out, 0),
        "document_lengths": {int(2**e): int(n) for e, n in zip(exponents, counts, strict=True)},
    }


def all_of(prepared: Prepared) -> View:
    """Every document of a preparation."""
    lengths = prepared.documents["length"].astype(np.int64)
    return View(prepared.store, np.cumsum(lengths) - lengths, lengths, prepared.documents["prompt"])


def split_view(view: View, keys: np.ndarray | None, split: config.Split) -> tuple[View, View]:
    """Training and evaluation side.

    By document: those whose hash, mixed with the seed, is below the fraction are kept for evaluation.
    By tail: the last tokens, `fraction` of all; a document that lies across is cut.
    """
    if split.by == "document":
        if keys is None:
            raise ValueError(
                "data.split.by=document, but where documents end is not known; set "
                "data.split.by=tail, or say "
                "where they end with data.documents=eos_ends"
            )
        held = _mix_array(keys, split.seed) < np.uint64(min(int(split.fraction * 2**64), 2**64 - 1))
        return _select(view, ~held), _select(view, held)
    cut = int(len(view) * (1 - split.fraction))
    before = np.clip(cut - (view.ends - view.lengths), 0, view.lengths)
    prompts = view.prompts
    return (
        View(view.store, view.starts, before, prompts),
        View(
            view.store,
            view.starts + before,
            view.lengths - before,
            None if prompts is None else np.maximum(prompts - before, 0),
        ),
    )


def _select(view: View, mask: np.ndarray) -> View:
    prompts = None if view.prompts is None else view.prompts[mask]
    return View(view.store, view.starts[mask], view.lengths[mask], prompts)


def _mix_array(keys: np.ndarray, seed: int) -> np.ndarray:
    state = keys.astype(np.uint64) ^ np.uint64(mix64(seed, 3))
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def cached(
    options: corpus_config.Corpus, source: Source, tokenizer: TokenizerImpl
) -> tuple[Prepared, dict[str, Any]]:
    """The source's tokens, from the cache or put there now, and what to tell of it."""
    recipe = Recipe(source, tokenizer, options.document_boundary, options.invalid_utf8)
    directory = Path(options.cache_dir).expanduser() / recipe.key()[:32]
    began = time.perf_counter()
    reused = (directory / INDEX).is_file()
    if reused:
        try:
            found = open_prepared(directory, tokenizer, vocab_size=tokenizer.vocab_size)
            log.info("data: %d tokens from the cache %s", len(found.store), directory)
            return found, {"cache": str(directory), "reused": True}
        except ValueError as error:
            log.warning("%s. It is a cache: it is made again now", error)
            discard(directory)
    workers = default_workers() if options.prepare_workers is None else options.prepare_workers
    prepare(recipe, directory, workers=workers)
    found = open_prepared(directory, tokenizer, vocab_size=tokenizer.vocab_size)
    seconds = time.perf_counter() - began
    log.info("data: %d tokens in %.1f s, cached in %s", len(found.store), seconds, directory)
    return found, {"cache": str(directory), "reused": False}


def build_corpus(options: corpus_config.Corpus, tokenizer: TokenizerImpl, wanted: config.RowSpec) -> Dataset:
    """Documents, tokenised, split and packed."""
    prepared, about = cached(options, options.source(), tokenizer)
    view = all_of(prepared)
    counts = {
        name: prepared.index[name]
        for name in ("documents", "tokens", "bytes", "empty", "skipped", "replaced")
    }
    about = {**counts, **about}
    apart = options.eval_source()
    if apart is not None:
        train, evaluation = view, all_of(cached(options, apart, tokenizer)[0])
    elif wanted.whole:
        train = evaluation = view
    else:
        assert options.split is not None
        train, evaluation = split_view(view, prepared.documents["key"], options.split)
    return make_dataset(train, evaluation, options, wanted, about=about)


def build_shards(options: config.TokenShards, tokenizer: TokenizerImpl, wanted: config.RowSpec) -> Dataset:
    """Token shards, split and packed."""
    known = tokenizer.vocab_size if wanted.vocab_size is None else wanted.vocab_size
    view, keys = _open_shards(options.path, options, tokenizer, known, "data.path")
    if keys is None and options.packing in ("concat", "best_fit", "none"):
        raise ValueError(
            f"data.packing={options.packing} needs to know where documents end; set data.documents=eos_ends "
            "or eos_begins, or data.packing=stream"
        )
    if options.eval_path is not None:
        train, evaluation = (
            view,
            _open_shards(options.eval_path, options, tokenizer, known, "data.eval_path")[0],
        )
    elif wanted.whole:
        train = evaluation = view
    else:
        assert options.split is not None
        train, evaluation = split_view(view, keys, options.split)
    about = {"tokens": len(view), "shards": len(view.store.shards)}
    return make_dataset(train, evaluation, options, wanted, about=about)


def _open_shards(
    paths: str | list[str], options: config.TokenShards, tokenizer: TokenizerImpl, vocab_size: int, key: str
) -> tuple[View, np.ndarray | None]:
    """All of the shards, and a key for each document where their ends are known; ids are below `vocab_size`."""
    single = Path(paths).expanduser() if isinstance(paths, str) else None
    if single is not None and options.documents in ("auto", "index") and is_prepared(single):
        prepared = open_prepared(single, tokenizer, vocab_size=vocab_size)
        return all_of(prepared), prepared.documents["key"]
    if options.documents == "index":
        raise ValueError(f"{key}={paths} was not made by lmx data prepare; set data.documents=none")
    files = find_files(paths, key=key, suffixes=(".bin",))
    shards = [open_shard(f, layout=options.layout, vocab_size=vocab_size) for f in files]
    _refuse_other_tokenizer(shards, tokenizer, vocab_size)
    store = TokenStore(shards, vocab_size=vocab_size)
    store.prove()
    starts, lengths = _documents(store, options.documents, tokenizer)
    keys = None if options.documents in ("auto", "none") else starts.astype(np.uint64)
    return View(store, starts, lengths), keys


def _refuse_other_tokenizer(shards: list[Shard], tokenizer: TokenizerImpl, vocab_size: int) -> None:
    """Shards named one by one still stand beside their index."""
    for directory in {Path(shard.path).parent for shard in shards}:
        if is_prepared(directory):
            open_prepared(directory, tokenizer, vocab_size=vocab_size)


def _documents(store: TokenStore, where: str, tokenizer: TokenizerImpl) -> tuple[np.ndarray, np.ndarray]:
    total = len(store)
    if where in ("auto", "none"):
        return np.array([0]), np.array([total])
    if tokenizer.eos_id is None:
        raise ValueError(f"data.documents={where}, but the tokenizer has no eos token; set tokenizer.eos")
    marks = store.find(tokenizer.eos_id)
    if not len(marks):
        raise ValueError(
            f"data.documents={where}, but no token is the end of text ({tokenizer.eos_id}); "
            "set data.documents=none"
        )
    starts = marks + 1 if where == "eos_ends" else marks
    starts = np.unique(np.concatenate([[0], starts[starts < total]]))
    return starts, np.diff(starts, append=total)
