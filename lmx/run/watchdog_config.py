"""`watchdog`: what is taken for a hang, and which host is said to hold the others up."""

from __future__ import annotations

from lmx.config.component import Config, field
from lmx.config.types import Duration, Positive, PositiveReal


class Watchdog(Config):
    """Ends a run that makes no steps any more, so that its launcher starts it again."""

    factor: PositiveReal | None = field(
        "times the usual step time without a sign of a step that are a hang; null: nothing is",
        effect="bookkeeping",
    )
    at_least: Duration = field(
        "shortest time that is a hang; compiling, evaluation and samples are not watched",
        unit="s",
        effect="bookkeeping",
    )
    saving: Duration | None = field(
        "longest that a save may hold training up, or the last one be waited for; null: as long as it takes",
        unit="s",
        effect="bookkeeping",
        before=None,
    )
    patience: Duration = field(
        "how long the processes of a run wait for each other's account of where they are",
        unit="s",
        effect="bookkeeping",
    )
    hosts_every: Positive | None = field(
        "rows of metrics between accounts of what each of several hosts spends its time on; null: none",
        effect="bookkeeping",
        before=None,
    )
    straggler: PositiveReal = field(
        "part of a step by which a host works longer than the median of the others to be named in the log",
        effect="bookkeeping",
        before=0.1,
    )
