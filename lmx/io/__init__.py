"""What a run leaves on disk and on the screen: checkpoints, the run directory, metrics, progress."""

from lmx.io.config import Checkpoint, Logging, Wandb

__all__ = ["Checkpoint", "Logging", "Wandb"]
