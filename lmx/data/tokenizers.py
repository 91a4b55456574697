"""Text <-> token ids. Every tokenizer here is a function of bytes, picklable, and free of jax."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lmx.config.foreign import quoted


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


def _special_id(key: str, name: str | None, ids: Mapping[str, int]) -> int | None:
    if name is None:
        return None
    if name not in ids:
        known = ", ".join(list(ids)[:8]) or "none"
        raise ValueError(f"tokenizer.{key}={name} is not a special token of this tokenizer (it has: {known})")
    return ids[name]


def _check_size(found: int, vocab_size: int, what: str) -> None:
    if found > vocab_size:
        raise ValueError(
            f"tokenizer.vocab_size={vocab_size} is too small: {what} has ids up to {found - 1}; "
            f"set tokenizer.vocab_size={found}"
        )


class ByteTokenizer:
    """UTF-8 bytes as ids; 0, which text does not contain, ends a text."""

    def __init__(self, vocab_size: int):
        _check_size(256, vocab_size, "the set of bytes")
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
        _check_size(max(taken | set(specials.values())) + 1, vocab_size, "the ranks file with its specials")
        self.eos_id = _special_id("eos", eos, specials)
        self.bos_id = _special_id("bos", bos, specials)
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
        return self._encoding.decode_bytes(_inside(ids, self.vocab_size))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text; a character cut in two becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")


class HuggingFaceTokenizer:
    """A `tokenizer.json`, run by the `tokenizers` library."""

    def __init__(self, path: str, *, vocab_size: int, eos: str | None, bos: str | None):
        self._text = _read_text(path, "a tokenizer.json file")
        self.vocab_size, self.name = vocab_size, path
        self._start(path)
        _check_size(max(self._tokenizer.get_vocab().values()) + 1, vocab_size, path)
        ids = self._tokenizer.get_vocab()
        self.eos_id = _special_id("eos", eos, ids)
        self.bos_id = _special_id("bos", bos, ids)
        self.hash = fingerprint(kind="tokenizer.json", text=self._text, eos=self.eos_id, bos=self.bos_id)

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
            counts[i] = 0 if i in special else length(token)
        return counts

    def encode(self, text: str) -> np.ndarray:
        """Ids, int32, without the special tokens that a template would add."""
        return np.asarray(
            self._tokenizer.encode(without_surrogates(text), add_special_tokens=False).ids, np.int32
        )

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text."""
        found = self._tokenizer.encode_batch_fast([*map(without_surrogates, texts)], add_special_tokens=False)
        return [np.asarray(one.ids, np.int32) for one in found]

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The UTF-8 bytes of `decode`: the library decodes to text."""
        return self.decode(ids).encode()

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text, special tokens by their names."""
        return self._tokenizer.decode(_inside(ids, self.vocab_size), skip_special_tokens=False)


def without_surrogates(text: str) -> str:
    """A text without lone surrogates, which are no characters: U+FFFD in their place."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _inside(ids: Sequence[int] | np.ndarray, vocab_size: int) -> list[int]:
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


def _read_text(path: str, what: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"tokenizer.path={path} does not exist; give {what}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"tokenizer.path={path} cannot be read as {what}: {error}") from None


MOST_RANKS = 2**31 - 1
"""The largest rank: ids are int32."""


def load_ranks(path: str) -> dict[bytes, int]:
    """The ranks of a tiktoken file (a line a token: base64, space, rank); ValueError naming a bad line."""
    ranks: dict[bytes, int] = {}
    taken: set[int] = set()
    for number, line in enumerate(_read_text(path, "a tiktoken ranks file").splitlines(), 1):
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
