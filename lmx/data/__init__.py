"""Data: sources, tokenizers, packing, mixing, loading."""

from lmx.data.command_config import Inspection, Preparation, TokenizerTraining
from lmx.data.config import Data, RowSpec, Split, Synthetic, TokenShards
from lmx.data.corpus_config import ArrayRecords, Corpus, JsonLines, Parquet, Stdlib, TextFiles
from lmx.data.mixture_config import Mixture, Stage
from lmx.data.tokenizer_config import Bytes, HuggingFace, Pretrained, Tiktoken, Tokenizer, TrainedBPE

__all__ = [
    "ArrayRecords",
    "Bytes",
    "Corpus",
    "Data",
    "HuggingFace",
    "Inspection",
    "JsonLines",
    "Mixture",
    "Parquet",
    "Preparation",
    "Pretrained",
    "RowSpec",
    "Split",
    "Stage",
    "Stdlib",
    "Synthetic",
    "TextFiles",
    "Tiktoken",
    "TokenShards",
    "Tokenizer",
    "TokenizerTraining",
    "TrainedBPE",
]
