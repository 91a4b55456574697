"""`tokenizer`: text <-> token ids. Free of jax, and of the tokenizer libraries until `build`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmx.config.component import Component, field
from lmx.config.types import Count, Positive, Text

if TYPE_CHECKING:
    from lmx.data.tokenizers import TokenizerImpl


class Tokenizer(Component):
    """Text <-> token ids."""

    vocab_size: Positive = field("number of ids; may exceed what the tokenizer has, to pad the vocabulary")

    def build(self) -> TokenizerImpl:
        """The tokenizer; ValueError naming the key when its files are missing, damaged or of another size."""
        raise NotImplementedError


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

    def build(self) -> TokenizerImpl:
        """The tokenizer; ValueError with the way out when its ranks are neither given nor cached."""
        from lmx.data.tokenizers import build_tiktoken

        return build_tiktoken(**dict(self))


class HuggingFace(Tokenizer):
    """A `tokenizer.json`."""

    path: Text = field("the tokenizer.json file", effect="bookkeeping")
    eos: Text | None = field("the token that ends a text, or null")
    bos: Text | None = field("the token that begins a text, or null")

    def build(self) -> TokenizerImpl:
        """The tokenizer."""
        from lmx.data.tokenizers import HuggingFaceTokenizer

        return HuggingFaceTokenizer(self.path, vocab_size=self.vocab_size, eos=self.eos, bos=self.bos)


class TrainedBPE(Tokenizer):
    """A byte-pair encoding made by `lmx tokenizer train`."""

    path: Text = field("the directory that lmx tokenizer train wrote", effect="bookkeeping")
    eos: Text | None = field("the special token that ends a text, or null")
    bos: Text | None = field("the special token that begins a text, or null")

    def build(self) -> TokenizerImpl:
        """The tokenizer."""
        from lmx.data.bpe import load

        return load(self.path, vocab_size=self.vocab_size, eos=self.eos, bos=self.bos)
