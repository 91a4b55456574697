"""`lmx eval`: loss, perplexity and bits per byte of a trained model on a data group."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from lmx.config.errors import RequestError, requests
from lmx.data.dataset import Dataset
from lmx.data.loader import eval_batches
from lmx.run.infer_config import EvalConfig
from lmx.run.load import Loaded, find, load
from lmx.run.programs import EvalProgram, options_for
from lmx.run.strided import batched, documents, windows
from lmx.sharding import Shard, make_mesh, make_shard
from lmx.train.evaluate import evaluate as mean_over
from lmx.types import Batch

_SIDES = {"all": "the whole data", "eval": "the evaluation side (split=all: the whole data)"}


def evaluate(composed: Any, run_dir: Path) -> float:
    """Prints the figures (one JSON document with `output=json`) and returns the loss."""
    config: EvalConfig = composed.config
    if config.tasks is not None:
        from lmx.run.harness import evaluate_tasks

        return evaluate_tasks(config)
    if config.data is None and find(config.source, config.which).checkpoint is not None:
        raise RequestError(
            f"data: {config.source} is a HuggingFace directory, which has no data of its own\n"
            "    fix: data=text data.path=FILE, or another option of the group"
        )
    with requests():
        loaded = load(
            config.source, config.dtype, which=config.which, weights=config.weights, mesh=config.mesh
        )
        split = config.split
        if split == "auto":
            split = "eval" if config.data is None else "all"
        length = _context(config, loaded)
        dataset = (config.data or loaded.config.data).build(
            loaded.vocabulary,
            sequence_length=length,
            seed=loaded.config.trainer.seed,
            global_batch_size=loaded.config.trainer.batch_sequences(),
            vocab_size=loaded.config.model.vocab_size,
            whole=split == "all",
        )
    batches = _batches(config, dataset, length)
    mesh, rules = make_mesh(loaded.config.mesh), loaded.config.mesh.rules
    options = options_for(loaded.config, mesh)
    step = EvalProgram(loaded.model, loaded.kernels, mesh, options=options).of(loaded.vocabulary.token_bytes)
    found = mean_over(step, loaded.params, (_laid(batch, make_shard(mesh, rules)) for batch in batches))
    results = {
        "from": config.source,
        "step": loaded.step,
        "split": split,
        "loss": found.loss,
        "perplexity": math.exp(min(found.loss, 700.0)),
        "bits_per_byte": found.bits_per_byte,
        "tokens": found.tokens,
    }
    if config.output == "json":
        print(json.dumps(results))
    else:
        bits = "" if found.bits_per_byte is None else f", {found.bits_per_byte:.4f} bits per byte"
        print(
            f"loss {found.loss:.4f} nats a token, perplexity {results['perplexity']:.2f}{bits}, "
            f"over {found.tokens:,} tokens of {_SIDES[split]}"
        )
    return found.loss


def _context(config: EvalConfig, loaded: Loaded) -> int:
    """Tokens of a sequence; ValueError where the model takes fewer, or a stride would leave some unscored."""
    length = config.sequence_length or loaded.config.trainer.sequence_length
    longest = loaded.config.model.max_length()
    if longest is not None and length > longest:
        raise ValueError(f"sequence_length={length}: the model has {longest} positions")
    if loaded.max_length is not None and length > loaded.max_length:
        print(
            f"sequence_length={length}: the model was made for {loaded.max_length} positions", file=sys.stderr
        )
    if config.stride is not None and config.stride > length:
        raise ValueError(
            f"stride={config.stride}: over the context of {length} tokens, some would not be scored; "
            f"stride={length} is the most"
        )
    return length


def _batches(config: EvalConfig, dataset: Dataset, length: int) -> Iterator[Batch]:
    """The evaluation side: sequences one after another, or with `stride` windows that overlap."""
    limit = config.sequences
    if config.stride is not None:
        return batched(windows(documents(dataset.eval), length, config.stride), config.batch_size, limit)
    return eval_batches(dataset, batch_size=config.batch_size, max_rows=limit)


def _laid(batch: Batch, shard: Shard) -> Batch:
    """A batch on the devices as in training; one that does not divide over them is whole on each."""
    return jax.tree.map(lambda x: jax.device_put(x, shard.layout(x.shape, ("batch", "length"))), batch)
