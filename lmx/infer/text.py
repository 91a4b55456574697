"""Ids that arrive one by one as text: whole characters only, and nothing of what a stop text may yet cut off."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

CONTEXT = 8
"""Ids of the prompt that are decoded along: some tokenizers write a token differently at the start of a text."""


class TextStream:
    """The text of one continuation as it grows.

    text        all of it so far; whole once `finish` or a stop text ended it
    stopped     whether a stop text was found (`text` then ends before it)
    kept        ids that the text up to the cut needs
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        """`tokenizer` has `decode_bytes`; `prompt` are the ids before the continuation."""
        self._tokenizer, self._stop = tokenizer, [s for s in stop if s]
        self._context = [int(i) for i in prompt[-CONTEXT:]]
        self._base = tokenizer.decode_bytes(self._context) if self._context else b""
        self._ids: list[int] = []
        self._shown = 0
        self.text = ""
        self.stopped = False
        self.kept = 0

    def _bytes(self, ids: Sequence[int]) -> bytes:
        whole = self._tokenizer.decode_bytes([*self._context, *ids])
        return whole[len(self._base) :] if whole.startswith(self._base) else self._tokenizer.decode_bytes(ids)

    def _decoded(self, ids: Sequence[int]) -> str:
        """The text without a character at its end that may not be whole yet.

        Some tokenizers decode to text and write U+FFFD for such a one: that is kept back as well.
        """
        return codecs.getincrementaldecoder("utf-8")("replace").decode(self._bytes(ids)).rstrip("\ufffd")

    def push(self, ids: Sequence[int]) -> str:
        """What can be shown now, after these further ids; empty once a stop text was found."""
        if self.stopped:
            return ""
        self._ids += [int(i) for i in ids]
        self.kept = len(self._ids)
        # An incremental decoder keeps a character's first bytes back until the last is there.
        self.text = self._decoded(self._ids)
        found = [at for at in (self.text.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped = True
            self.text = self.text[: min(found)]
            self.kept = self._needed(len(self.text))
            return self._show(len(self.text))
        return self._show(len(self.text) - self._undecided())

    def finish(self) -> str:
        """What is left to show when nothing more comes; a character cut in two becomes U+FFFD."""
        if not self.stopped:
            self.text = self._bytes(self._ids).decode("utf-8", "replace")
        return self._show(len(self.text))

    def _show(self, end: int) -> str:
        start, self._shown = self._shown, max(self._shown, end)
        return self.text[start : self._shown]

    def _undecided(self) -> int:
        """Length of the longest end of the text that a stop text begins with."""
        longest = max((len(s) for s in self._stop), default=1) - 1
        for n in range(min(longest, len(self.text)), 0, -1):
            if any(s.startswith(self.text[-n:]) for s in self._stop):
                return n
        return 0

    def _needed(self, length: int) -> int:
        """The fewest ids whose text has at least `length` characters."""
        low, high = 0, len(self._ids)
        while low < high:
            middle = (low + high) // 2
            text = self._decoded(self._ids[:middle])
            low, high = (low, middle) if len(text) >= length else (middle + 1, high)
        return low
