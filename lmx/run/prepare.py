"""Before the first step: everything of a training run is read and built, and what does not fit is said."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lmx.config.errors import requests
from lmx.data import Tokenizer
from lmx.data.dataset import Dataset, row
from lmx.data.kept import kept_tokenizer
from lmx.io import dashboards, remote
from lmx.io.run_dir import RunDir
from lmx.run.build import Parts, build, make_state, use_compile_cache
from lmx.run.config import TrainConfig
from lmx.run.hosts import require_same
from lmx.run.judge import Judge
from lmx.run.length import total_steps
from lmx.run.pace import with_steps
from lmx.run.programs import StepPrograms, check_options
from lmx.types import TrainState


class Ready(NamedTuple):
    """What a run needs to take its first step.

    composed  with the number of steps in it, where only a wall-clock time was asked for
    total     step that the run ends with
    state     before the first step; None for a run that goes on from a checkpoint
    dir       the run's directory, held against other processes
    """

    composed: Any
    total: int
    parts: Parts
    dataset: Dataset
    step_program: StepPrograms
    judge: Judge
    state: TrainState | None
    dir: RunDir


def prepare(composed: Any, run_path: Path, *, resume: bool) -> Ready:
    """Reads the data while model and programs are built; makes the run's directory last.

    RequestError where the parts do not fit together; an empty `run_path` is taken away then.
    """
    config: TrainConfig = composed.config
    try:
        with requests(), ThreadPoolExecutor(1) as reader:
            dashboards.check(config.logging)
            if config.checkpoint.remote is not None:
                remote.check(config.checkpoint.remote.path)
            use_compile_cache(config.trainer.compile_cache)
            if config.trainer.check_nans:
                jax.config.update("jax_debug_nans", True)
            reading: Future = reader.submit(read_data, config, run_path if resume else None)
            composed = with_steps(composed, reading.result, resume=resume)
            config = composed.config
            epoch = reading.result()[1].examples_per_epoch if config.trainer.epochs else 0
            total = total_steps(config.trainer, examples_per_epoch=epoch)
            parts = build(config, total_steps=total)
            check_options(config, parts.mesh)
            tokenizer, dataset = reading.result()
            step_program = StepPrograms(config, parts, row(dataset.train, 0))
            state = None if resume else make_state(config, parts)
            judge = Judge(config, parts, tokenizer, dataset)
        make = RunDir.open if resume else RunDir.create
        folder = make(run_path, primary=jax.process_index() == 0)
        require_same("configuration", composed.hash)  # and the run directory is there
    except Exception:
        if run_path.is_dir() and not any(run_path.iterdir()):
            run_path.rmdir()
        raise
    return Ready(composed, total, parts, dataset, step_program, judge, state, folder)


def read_data(config: Any, run: Path | None = None) -> tuple[Any, Dataset]:
    """Tokenizer and dataset of a configuration with `tokenizer`, `data`, `trainer` and `model`.

    `run`: the directory of a run that goes on; its tokenizer is the one that it keeps.
    """
    kept = None if run is None else kept_tokenizer(run)
    tokenizer = (config.tokenizer if kept is None else Tokenizer.model_validate(kept)).build()
    trainer = config.trainer
    dataset = config.data.build(
        tokenizer,
        sequence_length=trainer.sequence_length,
        seed=trainer.seed,
        global_batch_size=trainer.batch_sequences(),
        vocab_size=config.model.vocab_size,
    )
    return tokenizer, dataset
