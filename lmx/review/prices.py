"""`price`: what an hour of a chip costs, from a file that says when and where that was read."""

from __future__ import annotations

from lmx.config.component import Config, field
from lmx.config.types import PositiveReal, Text


class Prices(Config):
    """List prices of one day."""

    date: Text = field("when they were read, YYYY-MM", effect="bookkeeping")
    source: Text = field("where", effect="bookkeeping")
    currency: Text = field("of all of them", effect="bookkeeping")
    chip_hour: dict[Text, PositiveReal] = field(
        "chip, as in lmx/chips.py -> price of an hour of one", effect="bookkeeping"
    )
