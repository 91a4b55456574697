"""Byte-pair encodings by tiktoken: ranks files, named encodings, and the tokenizer that runs them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmx.config.foreign import quoted
from lmx.data.tokenizers import check_file, fingerprint, inside, read_text, special_id, without_surrogates


class TiktokenTokenizer:
    """Byte-pair encoding by tiktoken, from ranks, a pattern and special tokens."""

    def __init__(
        self,
        ranks: dict[bytes, int],
        pattern: str,
        *,
        specials: Mapping[str, int],
        vocab_size: int,
        eos: str | None,
        bos: str | None,
        name: str = "byte-pair encoding",
    ):
        missing = [b for b in range(256) if bytes([b]) not in ranks]
        if missing:
            raise ValueError(
                f"tokenizer.path: the ranks lack {len(missing)} of the 256 single bytes (first: "
                f"{missing[0]}), "
                "so some text could not be encoded; take a byte-level ranks file"
            )
        taken = set(ranks.values())
        clash = [name for name, i in specials.items() if i in taken]
        if clash:
            raise ValueError(
                f"tokenizer.specials: {clash[0]} has id {specials[clash[0]]}, which is an ordinary token's"
            )
        check_file(max(taken | set(specials.values())) + 1, vocab_size, "the ranks file with its specials")
        self.eos_id = special_id("eos", eos, specials)
        self.bos_id = special_id("bos", bos, specials)
        self.vocab_size, self.name = vocab_size, name
        self.specials = dict(specials)
        self.pattern = pattern
        self.ranks = ranks
        digest = hashlib.sha256()
        for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
            digest.update(b"%d:%d:" % (rank, len(token)) + token)
        self.hash = fingerprint(
            kind="ranks",
            ranks=digest.hexdigest(),
            pattern=pattern,
            specials=self.specials,
            eos=self.eos_id,
            bos=self.bos_id,
        )
        self._start()

    def _start(self) -> None:
        import tiktoken

        taken = set(self.ranks.values()) | set(self.specials.values())
        # Ids without a name (a padded vocabulary) still decode: a model may sample them before it has learnt.
        reserved = {f"<|reserved_{i}|>": i for i in range(self.vocab_size) if i not in taken}
        try:
            self._encoding = tiktoken.Encoding(
                f"lmx-{self.hash[:8]}",
                pat_str=self.pattern,
                mergeable_ranks=self.ranks,
                special_tokens=reserved | self.specials,
            )
        except ValueError as error:
            raise ValueError(f"tokenizer.pattern is not a valid pattern: {error}") from None

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_encoding"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start()

    @property
    def token_bytes(self) -> np.ndarray:
        """int32 [V]: length of each token in bytes, 0 for specials and reserved ids."""
        counts = np.zeros(self.vocab_size, np.int32)
        for token, rank in self.ranks.items():
            counts[rank] = len(token)
        return counts

    def encode(self, text: str) -> np.ndarray:
        """Ids, int32; special tokens written out in `text` are ordinary text."""
        try:
            return self._encoding.encode_to_numpy(without_surrogates(text), disallowed_special=()).astype(
                np.int32
            )
        except BaseException as error:  # tiktoken is compiled code, whose own failures are no Exception
            if type(error).__name__ != "PanicException":
                raise
            raise ValueError(
                f"tokenizer.pattern={quoted(self.pattern)} cannot cut this text: it matches nothing, an empty text, "
                "or takes too long"
            ) from None

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text."""
        return [self.encode(text) for text in texts]

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes; special tokens give their names."""
        return self._encoding.decode_bytes(inside(ids, self.vocab_size))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text; a character cut in two becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")


MOST_RANKS = 2**31 - 1
"""The largest rank: ids are int32."""


def load_ranks(path: str) -> dict[bytes, int]:
    """The ranks of a tiktoken file (a line a token: base64, space, rank); ValueError naming a bad line."""
    ranks: dict[bytes, int] = {}
    taken: set[int] = set()
    for number, line in enumerate(read_text(path, "a tiktoken ranks file").splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            value = int(rank)
            ranks[base64.b64decode(token, validate=True)] = value
        except ValueError:
            raise ValueError(
                f"tokenizer.path={path}: line {number} is not 'base64 rank'; is this a tiktoken ranks file?"
            ) from None
        if not 0 <= value <= MOST_RANKS or value in taken:
            why = "was given before" if value in taken else f"is none of 0 to {MOST_RANKS:,}"
            raise ValueError(
                f"tokenizer.path={path}: line {number}: rank {value} {why}; take a whole ranks file"
            )
        taken.add(value)
    if not ranks:
        raise ValueError(f"tokenizer.path={path} is empty; give a tiktoken ranks file")
    return ranks


def save_ranks(ranks: Mapping[bytes, int], path: Path) -> None:
    """Writes a tiktoken ranks file."""
    rows = sorted(ranks.items(), key=lambda item: item[1])
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in rows))


def named_encoding(name: str) -> Any:
    """tiktoken's encoding of that name, from its cache or the network; ValueError with the way out."""
    import tiktoken

    if name not in tiktoken.list_encoding_names():
        raise ValueError(
            f"tokenizer.encoding={name} is not known to tiktoken; it has "
            f"{', '.join(tiktoken.list_encoding_names())}"
        )
    try:
        return tiktoken.get_encoding(name)
    except Exception as error:  # network errors of several libraries, a damaged cache
        raise ValueError(
            f"tokenizer.encoding={name} is not in tiktoken's cache and cannot be fetched "
            f"({type(error).__name__}). Give its ranks file by tokenizer.path=FILE, or fill a cache "
            "on a machine "
            "with a network and point TIKTOKEN_CACHE_DIR to it, or choose tokenizer=bytes"
        ) from None


def build_tiktoken(
    *,
    encoding: str | None,
    path: str | None,
    pattern: str | None,
    specials: Mapping[str, int] | None,
    vocab_size: int,
    eos: str | None,
    bos: str | None,
) -> TiktokenTokenizer:
    """Ranks from `path` or else from the named encoding, whose pattern and specials fill what is null."""
    if path is not None:
        ranks = load_ranks(path)
        if pattern is None:
            raise ValueError(
                "tokenizer.pattern is null, but a ranks file needs its pattern; set tokenizer.pattern"
            )
    elif encoding is not None:
        known = named_encoding(encoding)
        ranks = known._mergeable_ranks
        pattern = known._pat_str if pattern is None else pattern
        specials = known._special_tokens if specials is None else specials
    else:
        raise ValueError("tokenizer.path and tokenizer.encoding are both null; set tokenizer.path=FILE")
    assert pattern is not None
    name = " from ".join(part for part in (encoding, path) if part is not None)
    return TiktokenTokenizer(
        ranks, pattern, specials=specials or {}, vocab_size=vocab_size, eos=eos, bos=bos, name=name
    )
