"""Training a byte-level BPE, kept as tiktoken ranks and as `tokenizer.json`: the two give the same ids."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lmx.data.byte_pairs import TiktokenTokenizer, load_ranks, save_ranks
from lmx.data.encoding import PART_BYTES, as_text
from lmx.data.files import TRAINED
from lmx.data.sources import Source

RANKS, JSON = "ranks.tiktoken", "tokenizer.json"


def byte_characters() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each byte (Radford et al. 2019) -> the byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shown = {chr(b): b for b in plain}
    rest = [b for b in range(256) if b not in plain]
    return shown | {chr(256 + i): b for i, b in enumerate(rest)}


def texts_of(source: Source, invalid_utf8: str, max_bytes: int | None) -> Iterator[str]:
    """The texts of a source, prompts too, up to `max_bytes`; ValueError where `invalid_utf8` says so."""
    total = 0
    for part in source.parts(PART_BYTES):
        for document in source.documents(part):
            if document.ids is not None:
                raise ValueError("data.record: a tokenizer learns from text, not from token ids")
            text, _ = as_text(document.prompt + document.text, document.place, invalid_utf8)
            if text:
                yield text
            total += len(document.text) + len(document.prompt)
            if max_bytes is not None and total >= max_bytes:
                return


def check_pattern(pattern: str) -> None:
    """ValueError for `{m,n}+`: possessive to one regex engine, a repeat to the other, so ids would differ."""
    import re

    found = re.search(r"\{\d*,?\d*\}\+", pattern)
    if found:
        raise ValueError(
            f"pattern: {found[0]} is read in two ways by the two libraries; write it without the final +"
        )


def train(texts: Iterable[str], *, vocab_size: int, pattern: str, specials: Sequence[str]) -> Any:
    """A `tokenizers.Tokenizer` of `vocab_size` ids, specials last; ValueError when the text is too little."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    check_pattern(pattern)
    if vocab_size < 256 + len(specials):
        raise ValueError(
            f"vocab_size={vocab_size} is below the 256 bytes and {len(specials)} specials; "
            f"set vocab_size={256 + len(specials)} or more"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learnt = tokenizer.get_vocab_size()
    if learnt + len(specials) < vocab_size:
        raise ValueError(
            f"vocab_size={vocab_size}: this text gives only {learnt + len(specials)} ids; "
            f"set vocab_size={learnt + len(specials)} or read more text"
        )
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def ranks_of(tokenizer: Any) -> dict[bytes, int]:
    """The tiktoken ranks of a byte-level BPE: bytes of each ordinary token -> its id."""
    byte = byte_characters()
    added = tokenizer.get_added_tokens_decoder()
    return {bytes(byte[c] for c in token): i for token, i in tokenizer.get_vocab().items() if i not in added}


def save(tokenizer: Any, directory: Path, *, pattern: str, specials: Sequence[str]) -> dict[str, Any]:
    """Writes ranks, `tokenizer.json` and, last, what they are; returns the latter."""
    directory.mkdir(parents=True, exist_ok=True)
    ranks = ranks_of(tokenizer)
    ids = tokenizer.get_vocab()
    about = {
        "vocab_size": tokenizer.get_vocab_size(),
        "pattern": pattern,
        "specials": {name: ids[name] for name in specials},
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    save_ranks(ranks, directory / RANKS)
    tokenizer.save(str(directory / JSON))
    temporary = directory / f".{TRAINED}.{os.getpid()}"
    temporary.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, directory / TRAINED)
    return about


def load(path: str, *, vocab_size: int, eos: str | None, bos: str | None) -> TiktokenTokenizer:
    """A tokenizer that `train` made, from its directory; ValueError when the directory holds none."""
    directory = Path(path).expanduser()
    if not (directory / TRAINED).is_file():
        raise ValueError(
            f"tokenizer.path={path} holds no trained tokenizer ({TRAINED} is missing); "
            "make one with: lmx tokenizer train to=DIR"
        )
    about = json.loads((directory / TRAINED).read_text(encoding="utf-8"))
    ranks = load_ranks(str(directory / RANKS))
    return TiktokenTokenizer(
        ranks,
        about["pattern"],
        specials=about["specials"],
        vocab_size=vocab_size,
        eos=eos,
        bos=bos,
        name=path,
    )
