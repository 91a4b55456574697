"""The roots of `lmx generate` and `lmx eval`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lmx.config.component import Config, field
from lmx.config.types import Count, Flag, Fraction, NonNegative, Positive, Text
from lmx.data import Data

Dtype = Literal["float32", "bfloat16", "float16"]


class GenerateConfig(Config):
    """`lmx generate`."""

    source: Text = Field(alias="from", description="run directory, or RUN/checkpoints/STEP")
    which: Literal["last", "best"] | Count = field("checkpoint of a run directory: last, best, or its step")
    weights: Literal["auto", "params", "ema"] = field(
        "parameters or their average; auto: the average when kept"
    )
    dtype: Dtype = field("of parameters and computation")
    prompt: Text | None = field("text to go on from")
    prompt_tokens: list[Count] | None = field("ids to go on from")
    prompts_file: Text | None = field("file with a prompt a line")
    max_new_tokens: Positive = field("length of the continuation", unit="tokens")
    temperature: NonNegative = field("0 is greedy")
    top_k: Positive | None = field("only the k most probable tokens; null: all")
    top_p: Fraction | None = field("only the most probable tokens of this total probability; null: all")
    seed: Count = field("of the sampling")
    ignore_eos: Flag = field("go on after the end-of-text token")
    output: Literal["text", "json"] = field("form of the result on stdout")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        given = [k for k in ("prompt", "prompt_tokens", "prompts_file") if getattr(self, k) is not None]
        if len(given) != 1:
            said = "is none" if not given else f"are {' and '.join(given)}"
            return [
                (
                    "prompt",
                    f"exactly one of prompt, prompt_tokens, prompts_file is needed, but there {said}",
                    "prompt='def '",
                )
            ]
        if self.prompt == "" or self.prompt_tokens == []:
            return [
                (given[0], "is empty; a continuation needs at least one token to go on from", "prompt='def '")
            ]
        return []


class EvalConfig(Config):
    """`lmx eval`."""

    source: Text = Field(alias="from", description="run directory, or RUN/checkpoints/STEP")
    which: Literal["last", "best"] | Count = field("checkpoint of a run directory: last, best, or its step")
    weights: Literal["auto", "params", "ema"] = field(
        "parameters or their average; auto: the average when kept"
    )
    dtype: Dtype = field("of parameters and computation")
    data: Data | None = field("what is evaluated on; null: the data of the run")
    split: Literal["eval"] = field("which side of the data")
    sequence_length: Positive | None = field("context; null: that of the run", unit="tokens")
    batch_size: Positive = field("sequences evaluated at once")
    sequences: Positive | None = field("how many are evaluated; null: all")
    output: Literal["text", "json"] = field("form of the result on stdout")
