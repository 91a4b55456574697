"""A tokenizer as the files of a HuggingFace directory."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lmx.data.byte_pairs import TiktokenTokenizer
from lmx.data.kept import FILES
from lmx.data.pretrained import PretrainedTokenizer
from lmx.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer

_PROBE = (
    "Hello, world!  It's 12345 o'clock;\n\n\tdef f(x): return x ** 2  # na\u00efve \u4f60\u597d \U0001f600 "
)
_BYTES = r"[\s\S]"


def write_tokenizer(folder: Path, config: Any, tokenizer: Any) -> str | None:
    """Writes the tokenizer's files; None, or why there are none.

    Files that the tokenizer was read from are copied; ranks and bytes are written as a byte-level `tokenizer.json`,
    which must encode a sample as the tokenizer does.
    """
    if tokenizer is None:
        return "the model came without one"
    if isinstance(tokenizer, PretrainedTokenizer):
        for name in FILES:
            if (tokenizer.folder / name).is_file():
                shutil.copyfile(tokenizer.folder / name, folder / name)
        return None
    if isinstance(tokenizer, HuggingFaceTokenizer):
        shutil.copyfile(Path(config.path).expanduser(), folder / "tokenizer.json")
        names = {"eos_token": config.eos, "bos_token": config.bos}
    elif isinstance(tokenizer, TiktokenTokenizer):
        known = getattr(tokenizer, "special_tokens", None)
        names = {"eos_token": config.eos, "bos_token": config.bos} if known is None else dict(known)
        text = byte_level(tokenizer.ranks, tokenizer.pattern, tokenizer.specials)
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    elif isinstance(tokenizer, ByteTokenizer):
        names = {"eos_token": "<|endoftext|>", "bos_token": None}
        ranks = {bytes([b]): b for b in range(1, 256)}
        text = byte_level(ranks, _BYTES, {"<|endoftext|>": 0})
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    else:
        return f"this one ({tokenizer.name}) has no form of theirs"
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if not _same(folder / "tokenizer.json", tokenizer):
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        return "its pattern has another meaning in their library"
    return None


def _same(path: Path, tokenizer: Any) -> bool:
    import tokenizers

    theirs = tokenizers.Tokenizer.from_file(str(path)).encode(_PROBE, add_special_tokens=False).ids
    return np.array_equal(theirs, tokenizer.encode(_PROBE))


def byte_level(ranks: dict[bytes, int], pattern: str, specials: dict[str, int]) -> str:
    """A `tokenizer.json` of byte-pair ranks: the merges are found again from the ranks."""
    letters = byte_letters()
    spell = lambda token: "".join(letters[b] for b in token)
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = _parts(token, ranks, rank)
            if len(parts) == 2:
                merges.append([spell(parts[0]), spell(parts[1])])
    added = [
        {"id": i, "content": text, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for text, i in sorted(specials.items(), key=lambda item: item[1])
    ]
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    # In the vocabulary too: ids of added tokens that are not would be counted up from its size.
    vocab = {spell(token): rank for token, rank in ranks.items()} | dict(specials)
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_]},
            "post_processor": None,
            "decoder": bytes_,
            "model": {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": True},
        },
        ensure_ascii=False,
    )


def _parts(token: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
    """What merges of a lower rank than `below` make of a token: the two parts that its own merge joins."""
    parts = [bytes([b]) for b in token]
    while True:
        joined = [ranks.get(a + b, below) for a, b in pairwise(parts)]
        if not joined or min(joined) >= below:
            return parts
        at = joined.index(min(joined))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in byte-level vocabularies: itself where it can be printed (GPT-2)."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printed]
    return {b: chr(b) for b in printed} | {b: chr(256 + i) for i, b in enumerate(others)}
