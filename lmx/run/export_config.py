"""The root of `lmx export`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from lmx.config.component import Config, Fault, field
from lmx.config.types import Count, Positive, Text
from lmx.run.places import source_faults, target_faults


class ExportConfig(Config):
    """`lmx export`."""

    source: Text = Field(
        alias="from", description="run directory, RUN/checkpoints/STEP or HuggingFace directory"
    )
    to: Text = field("directory to write; it must not exist, or be empty")
    which: Literal["last", "best"] | Count = field("checkpoint of a run directory: last, best, or its step")
    weights: Literal["auto", "params", "ema"] = field(
        "parameters or their average; auto: the average when kept"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field("that the weights are written in")
    shard_bytes: Positive = field(
        "largest file; more weights are written in several, with an index", unit="bytes"
    )
    output: Literal["text", "json"] = field("form of the result on stdout")

    @classmethod
    def faults(cls, node: Mapping[str, Any]) -> list[Fault]:
        """A source that is not there, a target that is."""
        return source_faults(node) + target_faults(node)
