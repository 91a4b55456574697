"""Training: the step, the loop, evaluation."""

from lmx.train.config import Trainer

__all__ = ["Trainer"]
