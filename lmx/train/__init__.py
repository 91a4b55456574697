"""Training: the step, the loop, evaluation."""

from lmx.train.config import Trainer
from lmx.train.spikes_config import RewindSpikes, SkipSpikes, Spikes

__all__ = ["RewindSpikes", "SkipSpikes", "Spikes", "Trainer"]
