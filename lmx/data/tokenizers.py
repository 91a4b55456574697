"""Text <-> token ids. Every tokenizer here is a function of bytes, picklable, and free of jax."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lmx.config.foreign import cut


class TokenizerImpl(Protocol):
    """What the rest of the library asks of a tokenizer.

    vocab_size      ids are 0 .. vocab_size - 1
    eos_id, bos_id  the ids that end and begin a text, or None
    hash            sha256 of all that decides the ids
    name            which one it is, in a few words
    token_bytes     int32 [V], bytes of text that each id stands for; 0 for special ids
    """

    vocab_size: int
    eos_id: int | None
    bos_id: int | None
    hash: str
    name: str

    @property
    def token_bytes(self) -> np.ndarray:
        """int32 [V], see above."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text, int32. Special tokens written out in the text are ordinary text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text."""
        ...

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that the ids stand for."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the ids; a character cut in two becomes U+FFFD."""
        ...


def fingerprint(**parts: Any) -> str:
    """sha256 of a canonical form of `parts`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def special_id(
    key: str, name: str | None, ids: Mapping[str, int], known: Sequence[str] | None = None
) -> int | None:
    """The id of the special token `tokenizer.KEY`; ValueError that lists `known` (None: all of `ids`)."""
    if name is None:
        return None
    if name not in ids:
        listed = cut(", ".join(list(ids if known is None else known)[:8]), 500) or "none"
        raise ValueError(
            f"tokenizer.{key}={cut(str(name), 200)} is not a special token of this tokenizer (it has: {listed})"
        )
    return ids[name]


def check_size(found: int, vocab_size: int, what: str) -> None:
    """ValueError where `what` has more ids than the vocabulary."""
    if found > vocab_size:
        raise ValueError(
            f"tokenizer.vocab_size={vocab_size} is too small: {what} has ids up to {found - 1}; "
            f"set tokenizer.vocab_size={found}"
        )


def check_file(found: int, vocab_size: int, what: str) -> None:
    """The same for a file, and a warning where most of the vocabulary is not in it."""
    check_size(found, vocab_size, what)
    if found < vocab_size / 2:
        logging.getLogger("lmx").warning(
            "tokenizer.vocab_size=%d, but %s has %d ids: the embedding's other rows are never used; "
            "tokenizer.vocab_size=%d",
            *(vocab_size, what, found, found),
        )


class ByteTokenizer:
    """UTF-8 bytes as ids; 0, which text does not contain, ends a text."""

    def __init__(self, vocab_size: int):
        check_size(256, vocab_size, "the set of bytes")
        self.vocab_size = vocab_size
        self.eos_id: int | None = 0
        self.bos_id: int | None = None
        self.hash = fingerprint(kind="bytes")
        self.name = "bytes"

    @property
    def token_bytes(self) -> np.ndarray:
        """int32 [V]: 1 for each byte, 0 for the end of text and for ids beyond the bytes."""
        counts = np.zeros(self.vocab_size, np.int32)
        counts[1:256] = 1
        return counts

    def encode(self, text: str) -> np.ndarray:
        """The UTF-8 bytes of `text`, int32."""
        return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The UTF-8 bytes of each text."""
        return [self.encode(text) for text in texts]

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes; ids beyond 255 stand for nothing."""
        array = np.asarray(ids, np.int64)
        return array[array < 256].astype(np.uint8).tobytes()

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")


class HuggingFaceTokenizer:
    """A `tokenizer.json`, run by the `tokenizers` library."""

    def __init__(self, path: str, *, vocab_size: int, eos: str | None, bos: str | None):
        self._text = read_text(path, "a tokenizer.json file")
        self.vocab_size, self.name = vocab_size, path
        self._start(path)
        ids = self._tokenizer.get_vocab()
        check_file(self._needed(ids) + 1, vocab_size, path)
        known = [token.content for _, token in sorted(self._tokenizer.get_added_tokens_decoder().items())]
        self.eos_id = special_id("eos", eos, ids, known)
        self.bos_id = special_id("bos", bos, ids, known)
        self.hash = fingerprint(kind="tokenizer.json", text=self._text, eos=self.eos_id, bos=self.bos_id)

    def _needed(self, ids: Mapping[str, int]) -> int:
        """The largest id that has to be one of the vocabulary."""
        return max(ids.values())

    def _start(self, path: str) -> None:
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(self._text)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"tokenizer.path={path} is not a tokenizer.json: {error}") from None

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_tokenizer"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start("tokenizer.json")

    @property
    def token_bytes(self) -> np.ndarray:
        """int32 [V]: bytes of each token; 0 for special and unused ids."""
        counts = np.zeros(self.vocab_size, np.int32)
        length = _token_length(json.loads(self._text))
        special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        for token, i in self._tokenizer.get_vocab().items():
            if i < self.vocab_size:
                counts[i] = 0 if i in special else length(token)
        return counts

    def encode(self, text: str) -> np.ndarray:
        """Ids, int32, without the special tokens that a template would add."""
        return self._ids(self._tokenizer.encode(without_surrogates(text), add_special_tokens=False).ids)

    def _ids(self, ids: Sequence[int]) -> np.ndarray:
        """int32; ValueError for one beyond the vocabulary, which only an added token can have."""
        found = np.asarray(ids, np.int32)
        if found.size and found.max() >= self.vocab_size:
            token = self._tokenizer.id_to_token(int(found.max()))
            raise ValueError(
                f"{token} has the id {found.max()}, which the model has no embedding of (ids are 0 to "
                f"{self.vocab_size - 1}): leave it out of the text"
            )
        return found

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text."""
        found = self._tokenizer.encode_batch_fast([*map(without_surrogates, texts)], add_special_tokens=False)
        return [self._ids(one.ids) for one in found]

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The UTF-8 bytes of `decode`: the library decodes to text."""
        return self.decode(ids).encode()

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text, special tokens by their names."""
        return self._tokenizer.decode(inside(ids, self.vocab_size), skip_special_tokens=False)


def without_surrogates(text: str) -> str:
    """A text without lone surrogates, which are no characters: U+FFFD in their place."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def inside(ids: Sequence[int] | np.ndarray, vocab_size: int) -> list[int]:
    """The ids as a list; ValueError for one outside 0 .. vocab_size - 1."""
    array = np.asarray(ids, np.int64)
    if array.size and (array.min() < 0 or array.max() >= vocab_size):
        raise ValueError(
            f"token {array[(array < 0) | (array >= vocab_size)][0]} is outside 0..{vocab_size - 1}"
        )
    return array.tolist()


def _token_length(description: dict) -> Any:
    """How many bytes of text a vocabulary entry stands for, by the kind of its decoder."""
    kinds = json.dumps([description.get("decoder"), description.get("pre_tokenizer")], ensure_ascii=False)
    if '"ByteLevel"' in kinds:
        return len  # one character a byte
    if "\u2581" in kinds or '"Metaspace"' in kinds:

        def length(token: str) -> int:
            if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                return 1
            return len(token.replace("\u2581", " ").encode())

        return length
    raise ValueError(
        "tokenizer.path: bytes per token are known for byte-level and SentencePiece-like tokenizers only"
    )


def read_text(path: str, what: str) -> str:
    """The text of `tokenizer.path`; ValueError where there is none, `what` says of which kind it should be."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"tokenizer.path={path} does not exist; give {what}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"tokenizer.path={path} cannot be read as {what}: {error}") from None
