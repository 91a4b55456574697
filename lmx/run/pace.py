"""A run whose length is given in wall-clock time alone: its steps, from the pace measured before it."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from lmx.config.errors import RequestError
from lmx.data.dataset import row
from lmx.data.loader import batches
from lmx.io.progress import duration as readable
from lmx.run.build import build, make_state, to_devices
from lmx.run.config import TrainConfig
from lmx.run.judge import Judge
from lmx.run.programs import StepPrograms
from lmx.sharding.rows import rows_of_process

SHARE = 0.95
"""Of the time that is planned with: a run should come to the end of its schedule before the clock stops it."""

_ENDLESS = 10**9
_STEPS = range(3, 21)
_LOOK = 0.05


def with_steps(composed: Any, read: Callable[[], tuple[Any, Any]], *, resume: bool) -> Any:
    """`composed` with `trainer.steps` set where `trainer.duration` alone says how long the run is.

    Some steps and evaluations are timed on a state that is thrown away; the number of steps that fits into the time
    then stands in the run's config.yaml, so that its schedule has a length, a resumed run goes on exactly, and
    `trainer.steps=N` makes the same run again. `read` gives tokenizer and dataset. RequestError for a resumed run
    without a length.
    """
    config: TrainConfig = composed.config
    trainer = config.trainer
    if trainer.duration is None or trainer.steps or trainer.tokens or trainer.epochs:
        return composed
    if resume:
        raise RequestError("trainer.steps=null: a resumed run needs its number of steps; set trainer.steps")
    tokenizer, dataset = read()
    trial = _replaced(config, steps=_ENDLESS, eval_sequences=2 * trainer.eval_batch_size)
    step_time, batch_time = measure(trial, dataset, tokenizer)
    count = (
        len(dataset.eval)
        if trainer.eval_sequences is None
        else min(trainer.eval_sequences, len(dataset.eval))
    )
    evaluation = batch_time * -(-count // trainer.eval_batch_size)
    steps = steps_within(trainer.duration, step_time, evaluation, trainer.eval_every)
    if config.logging.progress != "none":
        print(
            f"trainer.duration={readable(trainer.duration)}: {step_time:.3g} s a step and {evaluation:.3g} s an "
            f"evaluation make trainer.steps={steps}",
            file=sys.stderr,
        )
    tree = {**composed.tree, "trainer": {**composed.tree["trainer"], "steps": steps}}
    return replace(composed, config=_replaced(config, steps=steps), tree=tree)


def steps_within(seconds: float, step_time: float, evaluation: float, eval_every: int | None) -> int:
    """Steps, with an evaluation every `eval_every` of them and at the end, that take SHARE of `seconds`; at least 1."""
    each = step_time + (evaluation / eval_every if eval_every else 0.0)
    return max(1, int((SHARE * seconds - evaluation) / each))


def measure(config: TrainConfig, dataset: Any, tokenizer: Any) -> tuple[float, float]:
    """Seconds of a training step and of a batch of evaluation, compilation left out."""
    trainer = config.trainer
    assert trainer.duration is not None
    parts = build(config, total_steps=_ENDLESS)
    program = StepPrograms(config, parts, row(dataset.train, 0))
    judge = Judge(config, parts, tokenizer, dataset)
    state = make_state(config, parts)
    stream = batches(
        dataset.train,
        global_batch_size=trainer.batch_sequences(),
        start_step=0,
        rows=rows_of_process(parts.batch_sharding).rows(trainer.batch_sequences()),
        workers=0,
    )
    times: list[float] = []
    for batch in itertools.islice(stream, _STEPS.stop):
        began = time.perf_counter()
        state, metrics = program(state, to_devices(batch, parts.batch_sharding), norms=False)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - began)
        if (
            jax.process_count() == 1
            and len(times) > _STEPS.start
            and sum(times[1:]) > _LOOK * trainer.duration
        ):
            break
    stream.close()  # type: ignore[attr-defined]
    judge.evaluate(state)
    began = time.perf_counter()
    judge.evaluate(state)
    evaluated = min(2, -(-len(dataset.eval) // trainer.eval_batch_size))
    found = sorted(times[1:])[(len(times) - 1) // 2], (time.perf_counter() - began) / evaluated
    return _of_first_process(found)


def _of_first_process(found: tuple[float, float]) -> tuple[float, float]:
    """Every process plans with the same figures."""
    if jax.process_count() == 1:
        return found
    import numpy as np
    from jax.experimental.multihost_utils import broadcast_one_to_all

    step, evaluation = np.asarray(broadcast_one_to_all(np.asarray(found)))
    return float(step), float(evaluation)


def _replaced(config: TrainConfig, **changes: Any) -> TrainConfig:
    return config.model_copy(update={"trainer": config.trainer.model_copy(update=changes)})
