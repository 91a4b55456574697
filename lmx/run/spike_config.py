"""`lmx spike`: its keys."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Config, field
from lmx.config.types import Count, Positive, Text


class Spike(Config):
    """Which step of which run, and how much of it is shown."""

    run: Text = field("a run's folder, or its name under root", effect="bookkeeping", example="runs/RUN")
    step: Positive = field("the step to look into", effect="bookkeeping", example="500")
    window: Count = field("steps before it that it is compared with", effect="bookkeeping")
    rows: Positive = field("rows shown, those of the highest loss first", effect="bookkeeping")
    tokens: Count = field("tokens shown of each row, those of the highest loss first", effect="bookkeeping")
    root: list[Text] | Text = field("folders that are searched for runs", effect="bookkeeping")
    changes: list[Text] = field("overrides of lmx train that change no result", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")
