"""What is asked of an engine, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from lmx.infer.sampling import TOP_LOGPROBS, Controls, seed_words

FinishReason = Literal["stop", "length"]


WIDTH = 512
"""Entries of `logit_bias`, and `stop_tokens`, for which every request shares one program; more take another."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt and how it is to be continued. Each knob is off unless it is set; see `Controls`.

    tokens          ids of the prompt, at least one
    max_new_tokens  length of the continuation at most
    logit_bias      id -> what is added to its logit
    stop_tokens     ids that end the continuation; they are not part of it
    stop            texts that end it; cut off, exactly
    logprobs        how many alternatives get their log-probability beside the chosen token's; None: none at all
    sample          which of several continuations of one prompt and seed
    """

    tokens: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)
    stop_tokens: Sequence[int] = ()
    stop: Sequence[str] = ()
    seed: int = 0
    sample: int = 0
    logprobs: int | None = None


class TokenLogprob(NamedTuple):
    """Log-probabilities at one position, nats: of the chosen token, and of the best ones as (id, value)."""

    chosen: float
    best: list[tuple[int, float]]


class Result(NamedTuple):
    """A continuation.

    tokens          its ids, without the stop token
    text            what they stand for, cut before a stop text; empty without a tokenizer
    finish_reason   `stop` (a stop token or text) or `length`
    logprobs        one a token, or None
    rate            tokens a second while decoding, prefill and compiling apart; 0 where nothing was decoded
    """

    tokens: list[int]
    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None
    rate: float


def check(request: Request, *, vocab_size: int, max_length: int | None) -> None:
    """ValueError that names what is wrong with a request and what would be right."""
    n = len(request.tokens)
    if n == 0:
        raise ValueError("prompt: empty; it needs at least one token")
    for key, ids in (("prompt_tokens", request.tokens), ("stop_tokens", request.stop_tokens)):
        wrong = [i for i in ids if not 0 <= i < vocab_size]
        if wrong:
            raise ValueError(
                f"{key}: id {wrong[0]} is outside the model's vocabulary of {vocab_size} "
                f"(ids are 0 to {vocab_size - 1})"
            )
    wrong = [i for i in request.logit_bias if not 0 <= i < vocab_size]
    if wrong:
        raise ValueError(f"logit_bias: id {wrong[0]} is outside the model's vocabulary of {vocab_size}")
    if max_length is not None and n + request.max_new_tokens > max_length:
        fits = max_length - n
        cure = f"max_new_tokens={fits} would fit" if fits > 0 else "shorten the prompt"
        raise ValueError(
            f"prompt of {n} tokens and max_new_tokens={request.max_new_tokens} exceed the model's {max_length} "
            f"positions; {cure}"
        )
    _check_knobs(request)
    if request.logprobs is not None and not 0 <= request.logprobs <= TOP_LOGPROBS:
        raise ValueError(f"logprobs={request.logprobs}: at most {TOP_LOGPROBS} alternatives are given")
    if any(not text for text in request.stop):
        raise ValueError("stop: an empty text would end every continuation at once; leave it out")


def _check_knobs(request: Request) -> None:
    """ValueError for a knob that no distribution of tokens has."""
    ranges: tuple[tuple[str, bool, str], ...] = (
        ("temperature", request.temperature >= 0, "at least 0, which is greedy"),
        ("top_k", request.top_k is None or request.top_k >= 1, "at least 1, or None"),
        ("top_p", request.top_p is None or 0 < request.top_p <= 1, "above 0 and at most 1, or None"),
        ("min_p", request.min_p is None or 0 <= request.min_p <= 1, "0 to 1, or None"),
        (
            "repetition_penalty",
            request.repetition_penalty is None or request.repetition_penalty > 0,
            "above 0, or None",
        ),
        ("max_new_tokens", request.max_new_tokens >= 1, "at least 1"),
    )
    for name, right, allowed in ranges:
        if not right:
            raise ValueError(f"{name}={getattr(request, name)}: must be {allowed}")


def bucket(n: int, *, least: int = 1, most: int | None = None) -> int:
    """The power of two that holds `n`, at least `least`, at most `most` (which must hold `n`)."""
    size = max(least, 1 << max(n - 1, 0).bit_length())
    return size if most is None else min(size, max(most, n))


def controls_of(requests: Sequence[Request], rows: int, *, vocab_size: int) -> Controls:
    """The arrays of a batch of `rows` rows, the last of which may be empty (no token to choose).

    `vocab_size`: ids from there on are never chosen.
    """
    wide_bias = bucket(max(len(r.logit_bias) for r in requests), least=WIDTH)
    wide_stop = bucket(max(len(r.stop_tokens) for r in requests), least=WIDTH)
    empty = rows - len(requests)

    def each(value: Any, off: Any, dtype: Any) -> np.ndarray:
        values = [value(r) for r in requests]
        return np.array([off if v is None else v for v in values] + [off] * empty, dtype)

    def lists(values: Any, width: int, fill: Any, dtype: Any) -> np.ndarray:
        whole = np.full((rows, width), fill, dtype)
        for row, request in enumerate(requests):
            found = list(values(request))
            whole[row, : len(found)] = found
        return whole

    return Controls(
        temperature=each(lambda r: r.temperature, 0.0, np.float32),
        top_k=each(lambda r: r.top_k, 0, np.int32),
        top_p=each(lambda r: r.top_p, 1.0, np.float32),
        min_p=each(lambda r: r.min_p, 0.0, np.float32),
        repetition=each(lambda r: r.repetition_penalty, 1.0, np.float32),
        presence=each(lambda r: r.presence_penalty, 0.0, np.float32),
        frequency=each(lambda r: r.frequency_penalty, 0.0, np.float32),
        bias_ids=lists(lambda r: r.logit_bias, wide_bias, -1, np.int32),
        bias=lists(lambda r: r.logit_bias.values(), wide_bias, 0.0, np.float32),
        stop=lists(lambda r: r.stop_tokens, wide_stop, -1, np.int32),
        seed=np.stack([seed_words(r.seed) for r in requests] + [seed_words(0)] * empty),
        sample=each(lambda r: r.sample, 0, np.int32),
        prompt=each(lambda r: len(r.tokens), 1, np.int32),
        limit=each(lambda r: r.max_new_tokens, 0, np.int32),
        logprobs=each(lambda r: r.logprobs is not None, False, bool),
        vocab=np.full(rows, vocab_size, np.int32),
    )
