"""The roots of `lmx data ...` and `lmx tokenizer ...`."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Config, field
from lmx.config.types import Count, Flag, Positive, Text
from lmx.data.config import Data
from lmx.data.corpus_config import Corpus
from lmx.data.tokenizer_config import Tokenizer


class Preparation(Config):
    """`lmx data prepare`."""

    data: Corpus = field("the documents to tokenise")
    tokenizer: Tokenizer = field("text <-> token ids")
    to: Text = field("directory of the shards", effect="bookkeeping")
    workers: Count | None = field("processes; null: one a processor", effect="throughput")
    shard_bytes: Positive = field("text that goes into one shard, about", unit="bytes")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")


class Inspection(Config):
    """`lmx data inspect`."""

    data: Data = field("what is read")
    tokenizer: Tokenizer = field("text <-> token ids")
    side: Literal["train", "eval"] = field("which side of the split is shown")
    sequence_length: Positive = field("tokens in a row")
    global_batch_size: Positive = field("rows in a batch")
    step: Count = field("the step whose batch is shown")
    rows: Count = field("rows of it that are shown")
    sample: Positive = field("rows over which packing is measured")
    seed: Count = field("decides the order of examples")
    colour: Flag = field("whether segments and weights are coloured")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")


class TokenizerTraining(Config):
    """`lmx tokenizer train`."""

    data: Corpus = field("the text to learn from")
    to: Text = field("directory of the result", effect="bookkeeping")
    vocab_size: Positive = field("number of ids, special tokens included")
    pattern: Text = field("regular expression that cuts text into words")
    specials: list[Text] = field("special tokens; they take the last ids")
    max_bytes: Positive | None = field("text read at most; null: all", unit="bytes")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")
