"""Documents -> token ids: what decides which ids come out, and one part of a source encoded."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from lmx.data.shards import DOCUMENT, VERSION, token_dtype
from lmx.data.sources import Document, Part, Source, document_key, file_stamps
from lmx.data.tokenizers import TokenizerImpl, fingerprint

PART_BYTES = 32 * 2**20
_BATCH_BYTES = 2**20


class Recipe(NamedTuple):
    """All, apart from the source's files, that decides which tokens come out.

    boundary        which special ids stand around each document: eos | bos | both | none
    invalid_utf8    what becomes of text that is not UTF-8: error | replace | skip
    overrides       how a command chooses the tokenizer, told to whoever uses another; decides nothing
    """

    source: Source
    tokenizer: TokenizerImpl
    boundary: str
    invalid_utf8: str
    part_bytes: int = PART_BYTES
    overrides: tuple[str, ...] = ()

    def key(self) -> str:
        """A hash of the recipe and of its files' paths, sizes and times of change."""
        return fingerprint(
            version=VERSION,
            settings=self.source.settings(),
            files=file_stamps(self.source.files),
            tokenizer=self.tokenizer.hash,
            boundary=self.boundary,
            invalid_utf8=self.invalid_utf8,
            part_bytes=self.part_bytes,
        )


class Encoded(NamedTuple):
    """One part of a source as token ids.

    tokens       [tokens], of the tokenizer's smallest type
    documents    [documents] of `DOCUMENT`: key, length and length of the prompt
    text_sha256  of all text, or of the given ids
    bytes        of the text, or of the given ids
    empty, skipped, replaced  documents without text, left out, and with replaced characters
    """

    tokens: np.ndarray
    documents: np.ndarray
    text_sha256: str
    bytes: int
    empty: int
    skipped: int
    replaced: int


def boundary_ids(tokenizer: TokenizerImpl, boundary: str) -> tuple[list[int], list[int]]:
    """The ids before and after each document; ValueError when the tokenizer has no such id."""
    wanted = {"eos": ("eos",), "bos": ("bos",), "both": ("bos", "eos"), "none": ()}[boundary]
    for name in wanted:
        if getattr(tokenizer, f"{name}_id") is None:
            raise ValueError(
                f"data.document_boundary={boundary}, but the tokenizer has no {name} token; "
                f"set tokenizer.{name}, or data.document_boundary=none"
            )
    before = [tokenizer.bos_id] if "bos" in wanted else []
    after = [tokenizer.eos_id] if "eos" in wanted else []
    return [i for i in before if i is not None], [i for i in after if i is not None]


def as_text(raw: bytes, place: str, invalid_utf8: str, *, nul_ends: bool = False) -> tuple[str | None, bool]:
    """The text (None: to be skipped), and whether anything in it was replaced; ValueError under `error`.

    `nul_ends`: the tokenizer ends a text with NUL, so that one inside would cut it in two.
    """
    fault = None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        fault = f"byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8"
        text = raw.decode("utf-8", "replace")
    if nul_ends and "\0" in text:
        fault = fault or f"character {text.index(chr(0))} is NUL, with which the bytes tokenizer ends a text"
        text = text.replace("\0", "\ufffd")
    if fault is None or invalid_utf8 == "replace":
        return text, fault is not None
    if invalid_utf8 == "skip":
        return None, False
    raise ValueError(f"data: {place}: {fault}; set data.invalid_utf8=replace or data.invalid_utf8=skip")


class _Encoder:
    """Collects documents, encodes them in batches, and counts what becomes of them."""

    def __init__(self, recipe: Recipe):
        self.recipe, self.tokenizer = recipe, recipe.tokenizer
        self.dtype = token_dtype(recipe.tokenizer.vocab_size)
        before, after = boundary_ids(recipe.tokenizer, recipe.boundary)
        self.before, self.after = np.asarray(before, self.dtype), np.asarray(after, self.dtype)
        self.nothing = np.zeros(0, self.dtype)
        self.nul_ends = recipe.tokenizer.encode("\0").tolist() == [recipe.tokenizer.eos_id]
        self.digest = hashlib.sha256()
        self.chunks: list[np.ndarray] = []
        self.rows: list[tuple[int, int, int]] = []
        self.waiting: list[tuple[int, str, str, np.ndarray, np.ndarray]] = []
        self.size = self.bytes = self.empty = self.skipped = self.replaced = 0

    def add(self, document: Document) -> None:
        """One more document."""
        if document.ids is not None:
            self._add_ids(document, document.ids)
            return
        self.digest.update(document.prompt + document.text)
        policy, place = self.recipe.invalid_utf8, document.place
        text, replaced = as_text(document.text, place, policy, nul_ends=self.nul_ends)
        prompt, replaced_too = as_text(document.prompt, place, policy, nul_ends=self.nul_ends)
        if text is None or prompt is None:
            self.skipped += 1
        elif not text:
            self.empty += 1
        else:
            self.replaced += replaced or replaced_too
            self.bytes += len(document.text) + len(document.prompt)
            around = (
                self.before if document.begins else self.nothing,
                self.after if document.ends else self.nothing,
            )
            self.waiting.append((document_key(document), prompt, text, *around))
            self.size += len(document.text)
            if self.size >= _BATCH_BYTES:
                self.flush()

    def _add_ids(self, document: Document, ids: np.ndarray) -> None:
        if not len(ids):
            self.empty += 1
            return
        _check_ids(ids, document.place, self.tokenizer.vocab_size)
        self.digest.update(ids.tobytes())
        self.bytes += ids.nbytes
        self._put(document_key(document), self.before, ids, self.after, 0)

    def _put(self, key: int, lead: np.ndarray, ids: np.ndarray, after: np.ndarray, prompt: int) -> None:
        self.chunks.append(np.concatenate([lead, ids.astype(self.dtype), after]))
        self.rows.append((key, len(self.chunks[-1]), prompt))

    def flush(self) -> None:
        """Encodes what waits."""
        texts = self.tokenizer.encode_batch([text for _, _, text, _, _ in self.waiting])
        prompts = iter(self.tokenizer.encode_batch([prompt for _, prompt, *_ in self.waiting if prompt]))
        for (key, prompt, _, before, after), ids in zip(self.waiting, texts, strict=True):
            if prompt:
                lead = np.concatenate([before, next(prompts).astype(self.dtype)])
                self._put(key, lead, ids, after, len(lead))
            else:
                self._put(key, before, ids, after, 0)
        self.waiting.clear()
        self.size = 0

    def result(self) -> Encoded:
        """All tokens and documents so far."""
        self.flush()
        tokens = np.concatenate(self.chunks) if self.chunks else np.zeros(0, self.dtype)
        counts = (self.bytes, self.empty, self.skipped, self.replaced)
        return Encoded(tokens, np.array(self.rows, DOCUMENT), self.digest.hexdigest(), *counts)


def encode_part(recipe: Recipe, part: Part) -> Encoded:
    """The documents of a part as token ids; ValueError for text or ids that the recipe does not take."""
    encoder = _Encoder(recipe)
    for document in recipe.source.documents(part):
        encoder.add(document)
    return encoder.result()


def _check_ids(ids: np.ndarray, place: str, vocab_size: int) -> None:
    if int(ids.max()) >= vocab_size:
        raise ValueError(
            f"data.path: {place} has token {int(ids.max())}, outside the vocabulary of {vocab_size}; "
            "choose the tokenizer that the records were made with"
        )
