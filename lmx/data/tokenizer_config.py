"""`tokenizer`: text <-> token ids. Free of jax, and of the tokenizer libraries until `build`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lmx.config.component import Component, Fault, field
from lmx.config.types import Count, Positive, Text
from lmx.data.files import TRAINED, fault_of

if TYPE_CHECKING:
    from lmx.data.tokenizers import TokenizerImpl


class Tokenizer(Component):
    """Text <-> token ids."""

    vocab_size: Positive = field("number of ids; may exceed what the tokenizer has, to pad the vocabulary")

    def build(self) -> TokenizerImpl:
        """The tokenizer; ValueError naming the key when its files are missing, damaged or of another size."""
        raise NotImplementedError


def file_fault(node: Mapping[str, Any]) -> list[Fault]:
    """Of `path`: that it names no file, or an empty one."""
    path = node.get("path")
    if isinstance(path, str) and os.path.isdir(os.path.expanduser(path)):
        return [Fault("path", f"{path} is a directory; the name of a file is wanted")]
    fault = fault_of(path) if isinstance(path, str) else None
    return [] if fault is None else [Fault("path", *fault)]


class Bytes(Tokenizer):
    """UTF-8 bytes; id 0 ends a text."""

    def build(self) -> TokenizerImpl:
        """The byte tokenizer."""
        from lmx.data.tokenizers import ByteTokenizer

        return ByteTokenizer(self.vocab_size)


class Tiktoken(Tokenizer):
    """Byte-pair encoding by tiktoken."""

    encoding: Text | None = field(
        "name of a tiktoken encoding (gpt2, cl100k_base, ...), used when path is null"
    )
    path: Text | None = field("ranks file: a line a token, base64 and rank", effect="bookkeeping")
    pattern: Text | None = field("regular expression that cuts text into words; null: the named encoding's")
    specials: dict[str, Count] | None = field("special token -> id; null: the named encoding's")
    eos: Text | None = field("the special token that ends a text, or null")
    bos: Text | None = field("the special token that begins a text, or null")

    @classmethod
    def faults(cls, node: Mapping[str, Any]) -> list[Fault]:
        """A path that names no file."""
        return file_fault(node)

    def build(self) -> TokenizerImpl:
        """The tokenizer; ValueError with the way out when its ranks are neither given nor cached."""
        from lmx.data.byte_pairs import build_tiktoken

        return build_tiktoken(**dict(self))


class HuggingFace(Tokenizer):
    """A `tokenizer.json`."""

    path: Text = field("the tokenizer.json file", effect="bookkeeping", example="tokenizer.json")
    eos: Text | None = field("the token that ends a text, or null")
    bos: Text | None = field("the token that begins a text, or null")

    @classmethod
    def faults(cls, node: Mapping[str, Any]) -> list[Fault]:
        """A path that names no file."""
        return file_fault(node)

    def build(self) -> TokenizerImpl:
        """The tokenizer."""
        from lmx.data.tokenizers import HuggingFaceTokenizer

        return HuggingFaceTokenizer(self.path, vocab_size=self.vocab_size, eos=self.eos, bos=self.bos)


class TrainedBPE(Tokenizer):
    """A byte-pair encoding made by `lmx tokenizer train`."""

    path: Text = field(
        "the directory that lmx tokenizer train wrote", effect="bookkeeping", example="tokenizer"
    )
    eos: Text | None = field("the special token that ends a text, or null")
    bos: Text | None = field("the special token that begins a text, or null")

    @classmethod
    def faults(cls, node: Mapping[str, Any]) -> list[Fault]:
        """A path that is no directory of a trained tokenizer."""
        path = node.get("path")
        if not isinstance(path, str) or os.path.isfile(os.path.join(os.path.expanduser(path), TRAINED)):
            return []
        missing = f"{path} holds no trained tokenizer ({TRAINED} is missing)"
        return [Fault("path", f"{missing}; make one with: lmx tokenizer train to={path}")]

    def build(self) -> TokenizerImpl:
        """The tokenizer."""
        from lmx.data.bpe import load

        return load(self.path, vocab_size=self.vocab_size, eos=self.eos, bos=self.bos)


class Pretrained(Tokenizer):
    """The tokenizer in a HuggingFace directory, its special tokens and chat template with it, or that of a run."""

    path: Text = field("the directory", effect="bookkeeping", example="DIR")

    def build(self) -> TokenizerImpl:
        """The tokenizer; where the directory has none, one that knows ids alone."""
        from lmx.data.kept import of_run
        from lmx.data.pretrained import open_tokenizer

        theirs = of_run(self.path)
        if theirs is not None:
            return Tokenizer.model_validate(theirs).build()
        return open_tokenizer(self.path, vocab_size=self.vocab_size)
