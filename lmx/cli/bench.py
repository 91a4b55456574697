"""`lmx bench train`, `lmx bench data` and `lmx bench start`."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run_train(composed: Any, run_dir: Path) -> float:
    """Times training steps; returns the median step time."""
    from lmx.run.bench import bench_train, train_text

    found = bench_train(composed.config)
    print(json.dumps(found) if composed.config.output == "json" else train_text(found))
    return found["step_time"]


def run_data(composed: Any, run_dir: Path) -> float:
    """Times the data pipeline; returns the seconds a batch takes."""
    from lmx.run.bench import bench_data, data_text

    found = bench_data(composed.config)
    print(json.dumps(found) if composed.config.output == "json" else data_text(found))
    return 1 / found["batches_per_second"]


def run_start(composed: Any, run_dir: Path) -> float:
    """Times starts of `lmx train`; returns the median with an empty cache of programs."""
    from lmx.run.bench_start import bench_start, start_text

    found = bench_start(composed.config)
    print(json.dumps(found) if composed.config.output == "json" else start_text(found))
    return statistics.median(found["cold"])


COMMANDS = (
    Command(
        name="bench train",
        summary="measure training speed",
        schema="lmx.run.bench_config:BenchTrain",
        function=run_train,
        keys=(
            "measure.warmup",
            "measure.steps",
            "model.vocab_size",
            "trainer.compute_dtype",
            "trainer.global_batch_size",
            "trainer.sequence_length",
            "kernels",
            "output",
        ),
        examples=(
            ("lmx bench train", "the fixed job: 6 layers, 384 wide, 8 x 256 tokens, float32"),
            ("lmx bench train trainer.compute_dtype=bfloat16 model.vocab_size=50304", "another cell of it"),
            (
                "lmx bench train '~experiment' model=gpt2 mesh=fsdp output=json",
                "any model, any mesh, as JSON",
            ),
            ("lmx bench train -m kernels=auto,plain", "what the kernels bring"),
        ),
    ),
    Command(
        name="bench data",
        summary="measure how fast the data pipeline alone delivers",
        schema="lmx.run.bench_config:BenchData",
        function=run_data,
        keys=("seconds", "data.path", "sequence_length", "global_batch_size", "workers", "output"),
        examples=(
            ("lmx bench data data=tokens data.path='shards/*.bin'", "token shards"),
            ("lmx bench data data=text data.path=book.txt workers=2", "text, in two processes"),
        ),
    ),
    Command(
        name="bench start",
        summary="measure the time from typing `lmx train` to its first step",
        schema="lmx.run.bench_config:BenchStart",
        function=run_start,
        keys=("rounds", "output"),
        examples=(
            (
                "lmx bench start",
                "the default run, three times with an empty cache of programs and a full one",
            ),
            ("lmx bench start model=nano mesh=dp rounds=1", "any overrides of `lmx train`"),
        ),
        collects=("words", ("rounds", "output")),
    ),
)
