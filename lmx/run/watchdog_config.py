"""`watchdog`: what is taken for a hang."""

from __future__ import annotations

from lmx.config.component import Config, field
from lmx.config.types import Duration, PositiveReal


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
