"""How many steps a run takes."""

from __future__ import annotations

import math

from lmx.train import Trainer


def total_steps(trainer: Trainer, *, tokens_per_epoch: int) -> int:
    """Steps until the first of trainer.steps, tokens and epochs is reached; at least one of them is set."""
    tokens_per_step = trainer.batch_sequences() * trainer.sequence_length
    ends = []
    if trainer.steps is not None:
        ends.append(trainer.steps)
    if trainer.tokens is not None:
        ends.append(math.ceil(trainer.tokens / tokens_per_step))
    if trainer.epochs is not None:
        ends.append(math.ceil(trainer.epochs * tokens_per_epoch / tokens_per_step))
    return max(min(ends), 1)
