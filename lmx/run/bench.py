"""Timings of what a run is made of: the training step as `lmx train` runs it, and the data pipeline alone."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from typing import Any

import jax

from lmx import params as param_tree
from lmx.config.errors import requests
from lmx.data.dataset import row
from lmx.data.loader import batches, throughput
from lmx.run.bench_config import BenchData, BenchTrain
from lmx.run.build import build, make_state, to_devices, use_compile_cache
from lmx.run.numbers import Throughput
from lmx.run.prepare import read_data
from lmx.run.programs import StepPrograms
from lmx.sharding.rows import rows_of_process


def bench_train(config: BenchTrain) -> dict[str, Any]:
    """Times training steps, one after another, each waited for: seconds and rates of the median one.

    cpu_time is the processor time of this process a step, which other processes disturb less than step_time.
    time_to_first_step counts from here: it has building and compiling in it, but not the imports.
    """
    began = time.perf_counter()
    measure, trainer = config.measure, config.trainer
    total = measure.warmup + measure.steps
    with requests():
        use_compile_cache(trainer.compile_cache)
        dataset = read_data(config)[1]
        parts = build(config, total_steps=total)
        state = make_state(config, parts)
    step = StepPrograms(config, parts, row(dataset.train, 0))
    stream = batches(
        dataset.train,
        global_batch_size=trainer.batch_sequences(),
        rows=rows_of_process(parts.batch_sharding).rows(trainer.batch_sequences()),
        workers=trainer.data_workers,
    )
    wall, processor, losses, first = [], [], [], 0.0
    for batch in itertools.islice(stream, total):
        start, used = time.perf_counter(), time.process_time()
        state, metrics = step(state, to_devices(batch, parts.batch_sharding), norms=False)
        jax.block_until_ready(state)
        first = first or time.perf_counter() - began
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
        losses.append(float(metrics["loss"]))
    stream.close()  # type: ignore[attr-defined]
    if len(wall) <= measure.warmup:
        raise ValueError(
            f"data: it gives {len(wall)} batches, fewer than measure.warmup + measure.steps = {total}"
        )
    wall, processor = wall[measure.warmup :], processor[measure.warmup :]
    return {
        "name": config.name,
        **Throughput.of(config, parts).rates(statistics.median(wall)),
        "step_time_best": min(wall),
        "cpu_time": statistics.median(processor),
        "time_to_first_step": first,
        "steps": len(wall),
        "params": param_tree.count(parts.model.specs),
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "devices": parts.mesh.size,
        "device_kind": parts.mesh.devices.flat[0].device_kind,
        "jax": jax.__version__,
        "python": sys.version.split()[0],
    }


def train_text(found: dict[str, Any]) -> str:
    """The result of `bench_train` for people."""
    mfu = "" if found["mfu"] is None else f", {found['mfu']:.1%} MFU"
    return (
        f"{found['name']}: {found['tokens_per_second']:,.0f} tokens/s{mfu}\n"
        f"step {found['step_time']:.4f} s (median of {found['steps']}; best {found['step_time_best']:.4f}), "
        f"processor time {found['cpu_time']:.4f} s, first step after {found['time_to_first_step']:.1f} s"
    )


def bench_data(config: BenchData) -> dict[str, Any]:
    """Tokens a second that the pipeline delivers when nothing waits for it."""
    with requests():
        dataset = config.data.build(
            config.tokenizer.build(),
            sequence_length=config.sequence_length,
            seed=config.seed,
            global_batch_size=config.global_batch_size,
        )
    return throughput(
        dataset, global_batch_size=config.global_batch_size, workers=config.workers, seconds=config.seconds
    )


def data_text(found: dict[str, Any]) -> str:
    """The result of `bench_data` for people."""
    return (
        f"{found['tokens_per_second']:,.0f} tokens/s: {found['batches_per_second']:,.1f} batches/s of "
        f"{found['global_batch_size']} x {found['sequence_length']}, "
        f"the first after {found['seconds_to_first_batch']:.2f} s"
    )
