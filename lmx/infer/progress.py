"""How far a continuation has come, on the host."""

from __future__ import annotations

from typing import Any

from lmx.infer.requests import Request, Result, TokenLogprob
from lmx.infer.sampling import Chosen
from lmx.infer.text import TextStream


class Progress:
    """One request's continuation on the host."""

    def __init__(self, request: Request, tokenizer: Any) -> None:
        self.request = request
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.ended, self.reason = False, "length"
        self._stops = frozenset(request.stop_tokens)
        self._text = None if tokenizer is None else TextStream(tokenizer, request.tokens, request.stop)

    def push(self, chosen: Chosen, row: int, count: int) -> str:
        """Takes the first `count` tokens of a row; the text that may now be shown."""
        new = [int(i) for i in chosen.ids[row, :count]]
        end = next((n for n, i in enumerate(new) if i in self._stops), None)
        if end is not None:
            new, self.ended, self.reason = new[:end], True, "stop"
        if self.request.logprobs is not None:
            self.logprobs += [self._logprob(chosen, row, n) for n in range(len(new))]
        self.ids += new
        text = "" if self._text is None else self._text.push(new)
        if self._text is not None and self._text.stopped:
            self.ended, self.reason = True, "stop"
        self.ended = self.ended or len(self.ids) >= self.request.max_new_tokens
        if self.ended and self._text is not None:
            text += self._text.finish()
        return text

    def _logprob(self, chosen: Chosen, row: int, n: int) -> TokenLogprob:
        best = zip(chosen.top_ids[row, n], chosen.top_logprobs[row, n], strict=True)
        pairs = [(int(i), float(value)) for i, value in best]
        return TokenLogprob(float(chosen.logprob[row, n]), pairs[: self.request.logprobs])

    def result(self, seconds: float) -> Result:
        """The whole, `seconds` after the first token was there."""
        kept = len(self.ids) if self._text is None else self._text.kept
        return Result(
            self.ids[:kept],
            "" if self._text is None else self._text.text,
            "stop" if self.reason == "stop" else "length",
            self.logprobs[:kept] if self.request.logprobs is not None else None,
            (len(self.ids) - 1) / seconds if len(self.ids) > 1 else 0.0,
        )
