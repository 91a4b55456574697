"""`data` from text: documents that are tokenised once, and the files they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationInfo, field_validator

from lmx.config.component import Fault, field
from lmx.config.types import Count, Positive, Text
from lmx.data.config import Rows, RowSpec, check_one_evaluation, path_faults

if TYPE_CHECKING:
    from lmx.data.dataset import Dataset
    from lmx.data.sources import Source
    from lmx.data.tokenizers import TokenizerImpl

Boundary = Literal["eos", "bos", "both", "none"]
InvalidUtf8 = Literal["error", "replace", "skip"]
FILES = "files, globs or directories"


class Corpus(Rows):
    """Documents of text, tokenised once into a cache."""

    document_boundary: Boundary = field(
        "special tokens put around each document: eos after it, bos before it"
    )
    invalid_utf8: InvalidUtf8 = field(
        "text that is not UTF-8: error stops, replace puts U+FFFD, skip leaves it out"
    )
    max_bytes: Positive | None = field(
        "files are read in order until their sizes reach this; null: all", unit="bytes"
    )
    cache_dir: Text = field("where tokenised text is kept between runs", effect="bookkeeping")
    prepare_workers: Count | None = field(
        "processes that tokenise; null: one a processor", effect="throughput"
    )

    def source(self) -> Source:
        """The documents to train on (and to split)."""
        raise NotImplementedError

    def eval_source(self) -> Source | None:
        """The documents to evaluate on, where they are apart."""
        return None

    def open(self, tokenizer: TokenizerImpl, wanted: RowSpec) -> Dataset:
        """Tokenises what is not in the cache yet, splits, packs."""
        from lmx.data.dataset import build_corpus

        return build_corpus(self, tokenizer, wanted)


class Stdlib(Corpus):
    """The source of Python's own standard library on this machine, a document a file."""

    exclude: list[Text] = field("names of directories and files that are left out")

    def source(self) -> Source:
        """The library's `.py` files."""
        from lmx.data.sources import limit_bytes, standard_library
        from lmx.data.text_sources import DelimitedFiles

        return DelimitedFiles(limit_bytes(standard_library(self.exclude), self.max_bytes), separator=None)


class Files(Corpus):
    """Documents in files that the user names."""

    path: Text | list[Text] = field(FILES, example="book.txt")
    eval_path: Text | list[Text] | None = field(
        "the same, to evaluate on (split is not used then); null: split decides"
    )
    suffixes: list[Text] = field("endings of the files taken from a directory")

    @field_validator("eval_path")
    @classmethod
    def _one_evaluation(cls, eval_path: Any, info: ValidationInfo) -> Any:
        return check_one_evaluation(eval_path, info)

    @classmethod
    def faults(cls, node: Mapping[str, Any]) -> list[Fault]:
        """Paths that name no text."""
        suffixes = node.get("suffixes")
        known = isinstance(suffixes, list) and all(isinstance(suffix, str) for suffix in suffixes)
        return path_faults(node, suffixes if known and suffixes else [""])

    def open_files(self, files: tuple[str, ...]) -> Source:
        """The source over these files."""
        raise NotImplementedError

    def source(self) -> Source:
        """The documents of `path`."""
        from lmx.data.files import find_files
        from lmx.data.sources import limit_bytes

        files = find_files(self.path, key="data.path", suffixes=self.suffixes)
        return self.open_files(limit_bytes(files, self.max_bytes))

    def eval_source(self) -> Source | None:
        """The documents of `eval_path`."""
        from lmx.data.files import find_files

        if self.eval_path is None:
            return None
        return self.open_files(find_files(self.eval_path, key="data.eval_path", suffixes=self.suffixes))


class TextFiles(Files):
    """Plain text."""

    separator: Text | None = field("the text between two documents of a file; null: a file is a document")

    def open_files(self, files: tuple[str, ...]) -> Source:
        """Text files."""
        from lmx.data.text_sources import DelimitedFiles

        return DelimitedFiles(files, separator=self.separator)


class JsonLines(Files):
    """A field of JSON lines, with or without a prompt before it."""

    path: Text | list[Text] = field(FILES, example="corpus.jsonl")
    prompt_field: Text | None = field("a field put before the text; none of its tokens is learnt")
    prompt_joiner: Text = field("text between prompt and text; belongs to the prompt")
    field: Text = field("the field that holds the text")

    def open_files(self, files: tuple[str, ...]) -> Source:
        """JSON lines."""
        from lmx.data.text_sources import JsonLinesFiles

        return JsonLinesFiles(
            files, field=self.field, prompt_field=self.prompt_field, joiner=self.prompt_joiner
        )


class Parquet(Files):
    """A text column of Parquet files."""

    path: Text | list[Text] = field(FILES, example="corpus.parquet")
    field: Text = field("the column that holds the text")

    def open_files(self, files: tuple[str, ...]) -> Source:
        """Parquet files."""
        from lmx.data.record_sources import ParquetFiles

        return ParquetFiles(files, field=self.field)


class ArrayRecords(Files):
    """Records of ArrayRecord files, a document each."""

    path: Text | list[Text] = field(FILES, example="corpus.array_record")
    record: Literal["text", "json", "uint16", "uint32"] = field(
        "what a record holds: text, JSON, or token ids"
    )
    field: Text = field("the field of a JSON record that holds the text (record=json)")

    def open_files(self, files: tuple[str, ...]) -> Source:
        """ArrayRecord files."""
        from lmx.data.record_sources import ArrayRecordFiles

        return ArrayRecordFiles(files, record=self.record, field=self.field)
