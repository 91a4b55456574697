"""How many steps a run takes."""

from __future__ import annotations

import math

from lmx.train import Trainer


def total_steps(trainer: Trainer, *, examples_per_epoch: int) -> int:
    """Steps until the first of trainer.steps, tokens and epochs is reached.

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
    return max(min(ends), 1)
