"""The roots of `lmx bench train`, `lmx bench data` and `lmx bench start`."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Config, field
from lmx.config.types import Count, Duration, Positive
from lmx.data import Data, Tokenizer
from lmx.run.config import TrainConfig


class Measure(Config):
    """What is timed."""

    warmup: Count = field("steps before the timing starts; the first compiles", unit="steps")
    steps: Positive = field("steps that are timed, each to its end", unit="steps")


class BenchTrain(TrainConfig):
    """`lmx bench train`: all that `lmx train` has, and what is timed."""

    measure: Measure = field("what is timed", effect="bookkeeping")


class BenchData(Config):
    """`lmx bench data`."""

    data: Data = field("what is read")
    tokenizer: Tokenizer = field("text <-> token ids")
    sequence_length: Positive = field("length of a row", unit="tokens")
    global_batch_size: Positive = field("rows of a batch")
    workers: Count = field("processes that read ahead; 0: none", effect="throughput")
    seed: Count = field("order of the examples")
    seconds: Duration = field("how long batches are drawn and counted", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")


class BenchStart(Config):
    """`lmx bench start`."""

    words: list[str] = field("overrides of the run that is started", effect="bookkeeping")
    rounds: Positive = field("starts with an empty cache, and with a filled one", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")
