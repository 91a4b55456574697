"""`checkpoint` and `logging`: what a run keeps, and what it reports where."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Config, field
from lmx.config.types import Count, Duration, Flag, Positive, Text


class Checkpoint(Config):
    """When the state is saved, and which of the saved ones stay."""

    every: Positive | None = field("steps between checkpoints; null: none on the way", effect="bookkeeping")
    final: Flag = field("save after the last step, and when stopped by a signal", effect="bookkeeping")
    keep_last: Positive = field("newest checkpoints that stay", effect="bookkeeping")
    keep_best: Count = field("best checkpoints that stay; 0: none for being good", effect="bookkeeping")
    best_metric: Text = field("the metric that says which is best", effect="bookkeeping")
    best_is: Literal["lowest", "highest"] = field("which value of it is good", effect="bookkeeping")
    keep_every: Positive | None = field(
        "checkpoints at multiples of this step stay; null: none", effect="bookkeeping"
    )
    compression: Literal["none", "zstd"] = field("of the arrays on disk", effect="bookkeeping")
    verify: Literal["contents", "sizes"] = field(
        "what is checked before loading: every byte (sha256), or the files' sizes alone", effect="bookkeeping"
    )
    retry_after: Duration = field(
        "pause after a save that failed (disk full)", effect="bookkeeping", unit="s"
    )


class Wandb(Config):
    """Where Weights & Biases puts the run."""

    project: Text = field("project", effect="bookkeeping")
    entity: Text | None = field("user or team; null: your default", effect="bookkeeping")
    mode: Literal["online", "offline"] = field(
        "send while running, or keep in RUN/wandb", effect="bookkeeping"
    )


class Logging(Config):
    """What a run reports. `metrics.jsonl`, `log.txt` and `summary.json` are always written."""

    progress: Literal["auto", "bar", "lines", "none"] = field(
        "on stderr: a bar, or a line each logging step; auto: a bar on a terminal", effect="bookkeeping"
    )
    tensorboard: Flag = field("write RUN/tensorboard", effect="bookkeeping")
    wandb: Wandb | None = field("report to Weights & Biases; null: off", effect="bookkeeping")
    loss_curve: Flag = field("draw RUN/loss.png at the end", effect="bookkeeping")
