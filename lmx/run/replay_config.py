"""`replay`: whether devices compute what they should."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Config, field
from lmx.config.types import NonNegative, Positive


class Replay(Config):
    """Now and then the first micro-batch of a step is computed twice, and compared: silent corruption of data.

    The second time every part of it lies on another device of the same host, where that has several.
    """

    every: Positive = field("steps between replays", effect="bookkeeping")
    tolerance: NonNegative = field(
        "largest relative difference of losses and gradients; 0: bit for bit. Parameters are always compared so",
        effect="bookkeeping",
    )
    action: Literal["warn", "stop"] = field(
        "where they differ: a warning, or the run ends", effect="bookkeeping"
    )
