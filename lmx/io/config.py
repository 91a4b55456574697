"""`checkpoint` and `logging`: what a run keeps, and what it reports where."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Config, field
from lmx.config.near import nearest
from lmx.config.types import Count, Duration, Flag, Positive, PositiveReal, Text


class RemoteTier(Config):
    """A second place for checkpoints, which outlives the host: an object store, or a disk elsewhere."""

    path: Text = field(
        "folder in which each run gets its own: gs://BUCKET/PATH, s3://BUCKET/PATH, or a path",
        effect="bookkeeping",
        example="gs://bucket/checkpoints",
    )
    every_minutes: PositiveReal | None = field(
        "shortest time between two checkpoints that are sent; null: each is; the last one is always",
        effect="bookkeeping",
        unit="min",
    )
    keep_last: Positive = field("newest checkpoints that stay there", effect="bookkeeping")
    keep_best: Count = field("best checkpoints that stay there; 0: none for being good", effect="bookkeeping")
    keep_every: Positive | None = field(
        "steps between checkpoints that stay there for ever; null: none", effect="bookkeeping"
    )
    retry_after: Duration = field("pause after sending failed", effect="bookkeeping", unit="s")
    patience: Duration = field(
        "how long the end of a run tries again where sending fails", effect="bookkeeping", unit="s"
    )


class Checkpoint(Config):
    """When the state is saved, and which of the saved ones stay."""

    every: Positive | None = field("steps between checkpoints; null: none on the way", effect="bookkeeping")
    every_minutes: PositiveReal | None = field(
        "longest time between checkpoints, by the clock of process 0; null: steps alone count",
        effect="bookkeeping",
        unit="min",
        before=None,
    )
    final: Flag = field("save after the last step, and when stopped by a signal", effect="bookkeeping")
    keep_last: Positive = field("newest checkpoints that stay", effect="bookkeeping")
    keep_best: Count = field("best checkpoints that stay; 0: none for being good", effect="bookkeeping")
    best_metric: Text = field("the metric that says which is best", effect="bookkeeping")
    best_is: Literal["lowest", "highest"] = field("which value of it is good", effect="bookkeeping")
    keep_every: Positive | None = field(
        "steps between checkpoints that stay for ever; null: none", effect="bookkeeping"
    )
    compression: Literal["none", "zstd"] = field("of the arrays on disk", effect="bookkeeping")
    verify: Literal["contents", "sizes"] = field(
        "what is checked before loading: every byte (sha256), or the files' sizes alone", effect="bookkeeping"
    )
    retry_after: Duration = field(
        "pause after a save that failed (disk full)", effect="bookkeeping", unit="s"
    )
    remote: RemoteTier | None = field(
        "where copies go, in the background; null: nowhere", effect="bookkeeping", before=None
    )

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix that can be pasted)."""
        if self.remote is None:
            return []
        found = []
        never = self.every is None and self.every_minutes is None and not self.final
        if never and self.keep_every is None and self.remote.keep_every is None:
            message = "nothing is saved, so there is nothing to send"
            found.append(("checkpoint.remote", message, "checkpoint.final=true"))
        scheme, separator, rest = self.remote.path.partition("://")
        if separator and scheme not in _schemes():
            message = f"{scheme}:// is no storage that fsspec knows"
            fix = f"checkpoint.remote.path={nearest(scheme, _schemes()) or 'gs'}://{rest}"
            found.append(("checkpoint.remote.path", message, fix))
        elif not self.remote.path.strip():
            message = "the remote tier has no place"
            found.append(("checkpoint.remote.path", message, "checkpoint.remote.path=gs://BUCKET/PATH"))
        return found


def _schemes() -> list[str]:
    from fsspec import available_protocols

    return available_protocols()


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
