"""Published ranks of tiktoken, recognised by what they are: how they cut text, and their special tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Published(NamedTuple):
    """What belongs to a file of ranks.

    pattern   regular expression that cuts text into words
    specials  special token -> id
    bos, eos  the special tokens that a text begins and ends with; None: none
    """

    pattern: str
    specials: dict[str, int]
    bos: str | None
    eos: str | None


_GPT2 = Published(
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    {"<|endoftext|>": 50256},
    None,
    "<|endoftext|>",
)
"""Radford et al. 2019."""


def _llama3() -> Published:
    """Dubey et al. 2024, with the names of 3.1 and later: 256 specials after the ranks."""
    named = {
        0: "begin_of_text",
        1: "end_of_text",
        4: "finetune_right_pad_id",
        6: "start_header_id",
        7: "end_header_id",
        8: "eom_id",
        9: "eot_id",
        10: "python_tag",
    }
    reserved = iter(range(256))
    names = [named.get(i) or f"reserved_special_token_{next(reserved)}" for i in range(256)]
    return Published(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
        {f"<|{name}|>": 128000 + i for i, name in enumerate(names)},
        "<|begin_of_text|>",
        "<|end_of_text|>",
    )


PUBLISHED = {
    "47128d8b7f6443630130c05989a33d2d1cbcf260d35c19cee907f8ad04be963b": _GPT2,
    "46bf7723c37a7b59df84b7ce3073cbdf1b22259bddcce923197f6c5acd26df66": _llama3(),
}
"""SHA-256 of the ranks (`digest`) -> what belongs to them."""


def digest(ranks: Mapping[bytes, int]) -> str:
    """SHA-256 of ranks, whatever the order and spelling of their file."""
    found = hashlib.sha256()
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        found.update(b"%d:%d:" % (rank, len(token)) + token)
    return found.hexdigest()


def recognise(ranks: Mapping[bytes, int], file: Path) -> Published:
    """What belongs to published ranks; ValueError with the way out for others, which could be cut in any way."""
    known = PUBLISHED.get(digest(ranks))
    if known is None:
        raise ValueError(
            f"{file}: has {len(ranks):,} ranks that are neither GPT-2's nor Llama 3's, and does not say how text is "
            f"cut into words for them; put the tokenizer.json of the model into {file.parent} (training can be told: "
            f"tokenizer=tiktoken tokenizer.path={file}, its pattern and specials)"
        )
    return known
