"""`trainer`: how long, how much at once, in which precision, and what happens in between."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from lmx.config.component import Config, field
from lmx.config.types import Count, Duration, Flag, NonNegative, Positive, PositiveReal, Text, parse_whole


def _batch_size(value: Any) -> Any:
    """Sequences (`8`), or tokens (`512k tokens`)."""
    if isinstance(value, str) and (match := re.fullmatch(r"(.+?)\s*tokens", value.strip())):
        tokens = parse_whole(match[1])
        if tokens <= 0:
            raise ValueError(f"must be positive, got {value!r}")
        return f"{tokens} tokens"
    sequences = parse_whole(value)
    if sequences <= 0:
        raise ValueError(f"must be positive, got {value}")
    return sequences


BatchSize = Annotated[Any, AfterValidator(_batch_size)]
Dtype = Literal["float32", "bfloat16", "float16"]


class Profile(Config):
    """A window of steps recorded with jax.profiler into RUN/profile."""

    start: Count = field("first step that is recorded", effect="bookkeeping", example="10")
    steps: Positive = field("how many steps are recorded", effect="bookkeeping", example="3")


class Sample(Config):
    """Text generated from the model during and after training."""

    every: Positive | None = field("steps between samples; null: only at the end", effect="bookkeeping")
    prompt: Text = field("what the sample goes on from", effect="bookkeeping")
    tokens: Count = field("length of the sample; 0: none", effect="bookkeeping")
    temperature: NonNegative = field("0 is greedy", effect="bookkeeping")
    seed: Count = field("of the sampling", effect="bookkeeping")


class Trainer(Config):
    """The course of a run. Its length is the first of steps, tokens, epochs and duration to be reached."""

    steps: Positive | None = field("updates")
    tokens: Positive | None = field("training tokens", unit="tokens")
    epochs: PositiveReal | None = field("passes over the training data")
    duration: Duration | None = field(
        "wall-clock time of training, from the first step of each start on; alone, it sets steps by their pace",
        unit="s",
    )
    seed: Count = field("of the initial parameters, the order of the data, and dropout")
    sequence_length: Positive = field("context of a training example", unit="tokens")
    global_batch_size: BatchSize = field("a step's sequences over all hosts, or its tokens (`512k tokens`)")
    accumulation: Positive = field("micro-batches that a step's batch is split into, one after another")
    param_dtype: Dtype = field("of parameters and gradients")
    compute_dtype: Dtype = field("of activations and products; the loss is always float32")
    z_loss: NonNegative = field("factor of log(normaliser)^2 in the loss; 0: off (PaLM, section 5)")
    max_skipped: Positive = field("updates skipped in a row (loss or gradient not finite) that end the run")
    log_every: Positive = field("steps between rows of metrics", effect="bookkeeping")
    norms_every: Positive | None = field(
        "steps between norms of each parameter, gradient and update; null: never", effect="bookkeeping"
    )
    eval_every: Positive | None = field(
        "steps between evaluations; null: only at the end", effect="bookkeeping"
    )
    eval_batch_size: Positive = field("sequences evaluated at once", effect="bookkeeping")
    eval_sequences: Positive | None = field(
        "evaluated sequences; null: all of the split", effect="bookkeeping"
    )
    sample: Sample = field("generated text", effect="bookkeeping", off="tokens=0")
    profile: Profile | None = field("a profiled window", effect="bookkeeping")
    data_workers: Count = field("processes that read data; 0: the training process", effect="throughput")
    prefetch: Count = field("batches that lie ready on the devices ahead of their step", effect="throughput")
    compile_cache: Text | None = field(
        "folder of compiled programs, shared by all runs; null: off", effect="throughput"
    )
    peak_flops: PositiveReal | None = field(
        "of one device, for MFU; null: known accelerators' published bf16 figure, else no MFU",
        effect="bookkeeping",
        unit="FLOP/s",
    )
    check_nans: Flag = field(
        "stop at the operation that makes a NaN (slow; for debugging)", effect="bookkeeping"
    )

    def batch_sequences(self) -> int:
        """Sequences in a global batch; ValueError when a number of tokens is not a whole number of them."""
        size = self.global_batch_size
        if isinstance(size, int):
            return size
        tokens = int(size.split()[0])
        if tokens % self.sequence_length:
            raise ValueError(
                f"trainer.global_batch_size: {tokens} tokens are not a multiple of "
                f"trainer.sequence_length={self.sequence_length}"
            )
        return tokens // self.sequence_length
