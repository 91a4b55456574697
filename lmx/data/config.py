"""`data`: what is read, and how it becomes rows of tokens. Free of jax until a dataset is opened.

Here is what all sources share, token shards and synthetic tokens; text is in `corpus_config`, mixtures in
`mixture_config`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import ValidationInfo, field_validator

from lmx.config.component import Component, Config, Fault, field
from lmx.config.types import Count, Fraction, NonNegative, Positive, Text
from lmx.data.files import fault_of

if TYPE_CHECKING:
    from lmx.data.dataset import Dataset
    from lmx.data.tokenizers import TokenizerImpl

Packing = Literal["stream", "concat", "best_fit", "none"]
Windows = Literal["blocks", "random"]


class Split(Config):
    """Which part of the text is kept from training, to evaluate on."""

    by: Literal["document", "tail"] = field(
        "document: whole documents, by a hash of their text, so that equal ones fall on one side; "
        "tail: the end of the text"
    )
    fraction: Fraction = field("how much is kept from training: of the documents, or of the tokens")
    seed: Count = field("another seed keeps other documents (by: document)")


class RowSpec(NamedTuple):
    """What a run asks of its data.

    sequence_length    tokens in a row
    seed               decides the order of the rows, and nothing else does
    global_batch_size  rows in a step, for a source that counts in steps (the stages of a mixture); None: not known
    vocab_size         the ids that the model knows: ids of an unrecorded tokenizer lie below it; None: the tokenizer's
    whole              nothing is trained: the evaluation side is all of the text (of `eval_path`, where one is set),
                       and the training side is empty
    """

    sequence_length: int
    seed: int
    global_batch_size: int | None = None
    vocab_size: int | None = None
    whole: bool = False


class Data(Component):
    """What is read."""

    def open(self, tokenizer: TokenizerImpl, wanted: RowSpec) -> Dataset:
        """The rows that a run wants; ValueError naming the key, its value and the cure where they cannot be had."""
        raise NotImplementedError(f"{type(self).__name__}.open")

    def segmented(self) -> bool:
        """Whether every row carries positions and segments, because several documents may lie in it."""
        return False

    def tokens_of_an_epoch(self, sequence_length: int) -> int | None:
        """Tokens to train on, where that is seen without tokenising anything; None where it is not."""
        return None

    def build(
        self,
        tokenizer: TokenizerImpl,
        *,
        sequence_length: int,
        seed: int,
        global_batch_size: int | None = None,
        vocab_size: int | None = None,
        whole: bool = False,
    ) -> Dataset:
        """See `open`; the keywords are the fields of `RowSpec`."""
        return self.open(tokenizer, RowSpec(sequence_length, seed, global_batch_size, vocab_size, whole))


class Rows(Data):
    """Tokens in rows: what every source of documents or tokens has in common."""

    packing: Packing = field(
        "stream: all text end to end, cut every T tokens; concat: the same with segments, so that "
        "documents do "
        "not see each other; best_fit: documents packed whole into rows; none: one document a row, "
        "cut or padded"
    )
    windows: Windows = field(
        "blocks: rows do not overlap, each comes once an epoch; random: rows start anywhere (packing=stream)"
    )
    split: Split | None = field("the part kept for evaluation, where no eval_path gives another text")

    @field_validator("windows")
    @classmethod
    def _windows_of_a_stream(cls, windows: str, info: ValidationInfo) -> str:
        packing = info.data.get("packing", "stream")
        if windows == "random" and packing != "stream":
            raise ValueError(
                f"windows=random goes with packing=stream, not packing={packing}; set windows=blocks"
            )
        return windows

    def segmented(self) -> bool:
        """Whether documents are told apart in a row."""
        return self.packing in ("concat", "best_fit")


def path_faults(node: Mapping[str, Any], suffixes: Sequence[str]) -> list[Fault]:
    """Of `path` and `eval_path`: those that name no file, or empty ones."""
    found = []
    for key in ("path", "eval_path"):
        value = node.get(key)
        paths = [value] if isinstance(value, str) else value
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            continue
        if not paths:
            found.append(Fault(key, "names no file: the list is empty"))
        for number, path in enumerate(paths):
            fault = fault_of(path, suffixes)
            if fault is not None:
                message, meant = fault
                better = [*paths[:number], meant, *paths[number + 1 :]] if isinstance(value, list) else meant
                found.append(Fault(key, message, better if meant else None))
    return found


def check_one_evaluation(eval_path: Any, info: ValidationInfo) -> Any:
    """`eval_path`; ValueError when neither it nor `split` says what to evaluate on."""
    if eval_path is None and info.data.get("split", ...) is None:
        raise ValueError("nothing says what to evaluate on; set eval_path, or split={by: document, ...}")
    return eval_path


class TokenShards(Rows):
    """Token shards, memory-mapped: a directory made by `lmx data prepare`, or `.bin` files."""

    path: Text | list[Text] = field("a prepared directory, files, or globs", example="shards")
    eval_path: Text | list[Text] | None = field(
        "the same, to evaluate on (split is not used then); null: split decides"
    )
    layout: Literal["auto", "headed", "uint16", "uint32"] = field(
        "of .bin files: headed (256 int32 before the tokens), headerless uint16 or uint32; "
        "auto: headed where a header is, else uint16 when the vocabulary fits"
    )
    documents: Literal["auto", "index", "eos_ends", "eos_begins", "none"] = field(
        "where documents end: by the index of a prepared directory, after each eos, before each eos, or "
        "unknown; auto: index where there is one, else none"
    )

    @field_validator("eval_path")
    @classmethod
    def _one_evaluation(cls, eval_path: Any, info: ValidationInfo) -> Any:
        return check_one_evaluation(eval_path, info)

    @classmethod
    def faults(cls, node: Mapping[str, Any]) -> list[Fault]:
        """Paths that name no shards."""
        return path_faults(node, [".bin"])

    def open(self, tokenizer: TokenizerImpl, wanted: RowSpec) -> Dataset:
        """Opens the shards; ValueError when one is cut short or another tokenizer's."""
        from lmx.data.dataset import build_shards

        return build_shards(self, tokenizer, wanted)

    def tokens_of_an_epoch(self, sequence_length: int) -> int | None:
        """From the sizes of the files, where they are here: see `Data.tokens_of_an_epoch`."""
        from lmx.data.files import size_of

        size = size_of(self.path, ".bin")
        kept = 1.0 if self.eval_path is not None or self.split is None else 1 - self.split.fraction
        return None if not size else round(size / (4 if self.layout == "uint32" else 2) * kept)


class Synthetic(Data):
    """Tokens drawn by a rule whose entropy is known, so that the loss to reach is known too."""

    rule: Literal["walk", "zipf", "copy"] = field(
        "walk: each token is a few places after the one before, in a hidden order of the ids; "
        "zipf: independent draws; copy: the first half of a row, drawn at random, comes again"
    )
    exponent: NonNegative = field("exponent of Zipf's law for the draws; 0: all alike")
    branching: Positive = field("how many successors a token has (walk)")
    examples: Positive = field("rows of an epoch")
    eval_examples: Positive = field("rows to evaluate on")

    def open(self, tokenizer: TokenizerImpl, wanted: RowSpec) -> Dataset:
        """Rows drawn from (seed, index); the vocabulary is the tokenizer's."""
        from lmx.data.synthetic import build_synthetic

        return build_synthetic(self, tokenizer.vocab_size, wanted)

    def tokens_of_an_epoch(self, sequence_length: int) -> int | None:
        """See `Data.tokens_of_an_epoch`."""
        return self.examples * sequence_length
