"""The roots of `lmx compile` and `lmx tune memory`."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Config, field
from lmx.config.types import Positive, PositiveReal, Text
from lmx.run.config import TrainConfig

Program = Literal["train", "eval", "decode"]


class Decode(Config):
    """The decode program: one token a row, with a cache."""

    batch: Positive = field("rows that are decoded at once, over all devices", effect="bookkeeping")
    length: Positive = field("positions of the cache", unit="tokens", effect="bookkeeping")


class Compile(TrainConfig):
    """`lmx compile`: all that `lmx train` has, and what it is compiled for."""

    topology: Text = field(
        "chip and shape of a slice: v5e:4x4, v5p:4x4x4, v6e:16x16; cpu:8 for virtual devices",
        effect="bookkeeping",
        example="v5p:2x2x2",
    )
    slices: Positive = field("how many such slices, joined by the data-centre network", effect="bookkeeping")
    programs: list[Program] = field("what is compiled", effect="bookkeeping")
    decode: Decode = field("the decode program", effect="bookkeeping")
    report_cache: Text | None = field(
        "folder of reports, found again by a hash of the program; null: always compile", effect="bookkeeping"
    )
    fixes: Literal["compile", "none"] = field(
        "where a program does not fit: compile changes of the configuration until one fits, or none",
        effect="bookkeeping",
    )


class Search(Config):
    """What is tried."""

    accumulation: list[Positive] | Literal["auto"] = field(
        "micro-batches of a step; auto: powers of two that split the batch over the mesh",
        effect="bookkeeping",
    )
    remat: list[Text | dict[str, Text]] | Literal["auto"] = field(
        "values of model.remat; auto: those between none and full, and by tensor", effect="bookkeeping"
    )
    headroom: PositiveReal = field("part of the memory that has to stay free", effect="bookkeeping")
    most: Positive = field("programs that are compiled at most, the likeliest first", effect="bookkeeping")


class TuneMemory(Compile):
    """`lmx tune memory`: all that `lmx compile` has, and what is tried."""

    search: Search = field("what is tried", effect="bookkeeping")
