"""How many steps a run takes."""

from __future__ import annotations

import math

from lmx.train import Trainer

MOST = 2**31 - 1
"""Steps are counted in 32 bits."""


def total_steps(trainer: Trainer, *, examples_per_epoch: int) -> int:
    """Steps until the first of trainer.steps, tokens and epochs is reached; ValueError for too many.

    One of them is set: where the request names a duration alone, `lmx.run.pace` has set the steps.
    """
    sequences = trainer.batch_sequences()
    ends = []
    if trainer.steps is not None:
        ends.append(trainer.steps)
    if trainer.tokens is not None:
        ends.append(math.ceil(trainer.tokens / (sequences * trainer.sequence_length)))
    if trainer.epochs is not None:
        ends.append(math.ceil(trainer.epochs * examples_per_epoch / sequences))
    if min(ends) > MOST:
        raise ValueError(
            f"trainer: a run of {min(ends):,} steps is longer than the {MOST:,} that are counted"
        )
    return max(min(ends), 1)


def steps_or_none(trainer: Trainer) -> int | None:
    """Steps as far as the configuration alone tells them; None where only the data or the clock will."""
    if trainer.steps is None and trainer.tokens is None:
        return None
    return total_steps(trainer.model_copy(update={"epochs": None}), examples_per_epoch=0)
