"""`fault`: something that goes wrong once in a run, at a step, on one of its processes or on all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from lmx.config.component import Component, field
from lmx.config.types import Count, Duration, Positive, Text

RECORD = "faults.jsonl"
"""In the run's directory: faults that have been staged. A run that goes on is not disturbed again."""


class Site(NamedTuple):
    """Where a fault is staged: the run's directory, the number of this process, the file or folder of the data."""

    run: Path
    process: int
    data: Path | None


class Fault(Component):
    """One fault. The process writes it into RUN/faults.jsonl, and then does it: it happens once in a run."""

    step: Positive = field("at which it happens, or the first save from it on", effect="bookkeeping")
    process: Count | None = field("on which it happens; null: on all", effect="bookkeeping")

    def build(self, site: Site) -> Any:
        """The `lmx.train.observe.Observer` that does it."""
        from lmx.faults import acts

        return getattr(acts, type(self).__name__)(self, site)


class KillHost(Fault):
    """The process dies by SIGKILL, as when its host is lost."""


class KillDuringSave(Fault):
    """The process dies between a checkpoint's arrays and the file that marks it as whole."""


class TornCheckpoint(Fault):
    """A checkpoint that was whole is damaged on disk, and the process dies."""

    damage: Literal["truncated", "flipped_byte", "missing_file"] = field(
        "what is done to its largest file", effect="bookkeeping"
    )


class Nan(Fault):
    """The loss of some steps is not a number."""

    steps: Positive = field("how many steps", effect="bookkeeping")


class LossSpike(Fault):
    """Targets of some steps are other tokens of the batch: the loss jumps."""

    steps: Positive = field("how many steps", effect="bookkeeping")


class SlowHost(Fault):
    """The process is late with some steps."""

    steps: Positive = field("how many steps", effect="bookkeeping")
    delay: Duration = field("of each of these steps", unit="s", effect="bookkeeping")


class HangHost(Fault):
    """The process stops working, and does not end."""


class DiskFull(Fault):
    """The system refuses to write files beyond a size, during one save."""

    bytes: Positive = field("that a file may have", unit="bytes", effect="bookkeeping")


class ReadOnlyDisk(Fault):
    """Nothing can be made in the folder of checkpoints, during one save."""


class SlowStorage(Fault):
    """Each save and each restore takes longer."""

    delay: Duration = field("of each save and each restore", unit="s", effect="bookkeeping")


class ClockSkew(Fault):
    """The process's wall clock jumps."""

    by: Duration = field("how far, ahead", unit="s", effect="bookkeeping")


class Sigterm(Fault):
    """The process is asked to stop, as before a preemption."""


class BadShard(Fault):
    """A file of the data vanishes, or loses its second half, while it is read; it is kept as FILE.before-fault."""

    damage: Literal["vanished", "truncated"] = field("what is done to it", effect="bookkeeping")


class BitFlip(Fault):
    """A bit of what one device holds flips while a micro-batch is replayed: silent corruption, for `replay` to find."""

    device: Count = field("number of the device among the process's own", effect="bookkeeping")
    where: Literal["parameters", "computing", "gradients"] = field(
        "in the copy of the parameters; in them when they were compared already, so that the device computes something "
        "else; in a gradient",
        effect="bookkeeping",
    )
    path: Text = field("a pattern; the first array of such a name is hit", effect="bookkeeping")
