"""Choosing the next token from logits, on the device, each row by its own rules."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TOP_LOGPROBS = 20
"""The most alternatives a position whose log-probabilities are given."""


class Controls(NamedTuple):
    """How each row of a batch is sampled: arrays over rows, so that no value of them needs a new program.

    temperature_B   float32; 0 takes the most probable token
    top_k_B         int32; 0: off
    top_p_B         float32; 1: off
    min_p_B         float32, part of the largest probability below which a token is left out; 0: off
    repetition_B    float32; logits of tokens in prompt or continuation are divided by it where positive, else
                    multiplied (arXiv:1909.05858, section 4.1); 1: off
    presence_B      float32, taken from the logits of tokens that the continuation has; 0: off
    frequency_B     float32, the same, times how often it has them; 0: off
    bias_ids_BJ     int32, tokens whose logits are changed; -1: none
    bias_BJ         float32, what is added to them
    stop_BJ         int32, tokens that end a row; -1: none
    seed_B2         uint32, high and low word
    sample_B        int32, which of several continuations of one prompt and seed
    prompt_B        int32, length of the prompt
    limit_B         int32, tokens to be chosen at most
    logprobs_B      bool, whether log-probabilities are wanted
    vocab_B         int32; ids from there on (padding of the vocabulary) are never chosen
    """

    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any
    repetition: Any
    presence: Any
    frequency: Any
    bias_ids: Any
    bias: Any
    stop: Any
    seed: Any
    sample: Any
    prompt: Any
    limit: Any
    logprobs: Any
    vocab: Any


class Chosen(NamedTuple):
    """Tokens of one position, int32 [B], and the log-probabilities of them [B] and of the best [B, TOP_LOGPROBS].

    Log-probabilities are the model's own, before temperature, penalties and bias; zeros where none are wanted.
    """

    ids: Any
    logprob: Any
    top_ids: Any
    top_logprobs: Any


def _ordered(x: jax.Array) -> jax.Array:
    """float32 as int32 in the same order."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _largest(holds: Any, batch: int) -> jax.Array:
    """For each row the largest int32 t [B, 1] with `holds(t)`, which is true up to some t and false from there on.

    Bisection bit by bit: 32 passes over the vocabulary, where a sort would take many more.
    """
    start = jnp.full((batch, 1), jnp.iinfo(jnp.int32).min, jnp.int32)

    def halve(i: Any, found: jax.Array) -> jax.Array:
        # The first step is 2^31, which wraps the smallest int32 around to 0.
        tried = found + jax.lax.shift_left(jnp.int32(1), jnp.int32(31) - i)
        return jnp.where(holds(tried), tried, found)

    return jax.lax.fori_loop(0, 32, halve, start)


def keep_top_k(logits_BV: jax.Array, top_k_B: jax.Array) -> jax.Array:
    """-inf for all but the `top_k` largest of each row and what equals the last of them; 0 keeps all."""
    keys_BV = _ordered(logits_BV)
    k_B1 = top_k_B[:, None]
    least_B1 = _largest(lambda t: (keys_BV >= t).sum(-1, keepdims=True) >= k_B1, logits_BV.shape[0])
    return jnp.where((keys_BV >= least_B1) | (k_B1 <= 0), logits_BV, -jnp.inf)


def keep_top_p(logits_BV: jax.Array, top_p_B: jax.Array) -> jax.Array:
    """-inf for all but the smallest set of most probable tokens that together have probability `top_p`."""
    keys_BV, probability_BV = _ordered(logits_BV), jax.nn.softmax(logits_BV, axis=-1)
    p_B1 = top_p_B[:, None]

    def enough(t: jax.Array) -> jax.Array:
        return jnp.where(keys_BV >= t, probability_BV, 0.0).sum(-1, keepdims=True) >= p_B1

    # The most probable token stays, however small top_p is.
    least_B1 = jnp.minimum(_largest(enough, logits_BV.shape[0]), keys_BV.max(-1, keepdims=True))
    return jnp.where((keys_BV >= least_B1) | (p_B1 >= 1.0), logits_BV, -jnp.inf)


def keep_min_p(logits_BV: jax.Array, min_p_B: jax.Array) -> jax.Array:
    """-inf where the probability is under `min_p` times the largest (arXiv:2407.01082)."""
    least_B1 = logits_BV.max(-1, keepdims=True) + jnp.log(min_p_B)[:, None]
    return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)


def penalised(
    logits_BV: jax.Array, controls: Controls, tokens_BS: jax.Array, lengths_B: jax.Array
) -> jax.Array:
    """Logits with the three penalties for the tokens at positions below `lengths`."""
    place_S = jnp.arange(tokens_BS.shape[1])
    rows_B1 = jnp.arange(tokens_BS.shape[0])[:, None]
    known_BS = place_S < lengths_B[:, None]
    made_BS = known_BS & (place_S >= controls.prompt[:, None])
    zeros = jnp.zeros(logits_BV.shape, jnp.float32)
    seen_BV = zeros.at[rows_B1, tokens_BS].add(known_BS) > 0
    count_BV = zeros.at[rows_B1, tokens_BS].add(made_BS)
    factor_B1 = controls.repetition[:, None]
    repeated_BV = jnp.where(logits_BV > 0, logits_BV / factor_B1, logits_BV * factor_B1)
    logits_BV = jnp.where(seen_BV, repeated_BV, logits_BV)
    return logits_BV - controls.presence[:, None] * (count_BV > 0) - controls.frequency[:, None] * count_BV


def _when(wanted: jax.Array, function: Any, x: jax.Array, *more: Any) -> jax.Array:
    """`function(x, *more)` where a row wants it, else `x`; decided on the device, and free when nobody does."""
    return jax.lax.cond(jnp.any(wanted), function, lambda x, *_: x, x, *more)


def _biased(logits_BV: jax.Array, ids_BJ: jax.Array, bias_BJ: jax.Array) -> jax.Array:
    rows_B1 = jnp.arange(ids_BJ.shape[0])[:, None]
    return logits_BV.at[rows_B1, jnp.maximum(ids_BJ, 0)].add(jnp.where(ids_BJ >= 0, bias_BJ, 0.0))


def _drawn(logits_BV: jax.Array, controls: Controls, lengths_B: jax.Array) -> jax.Array:
    hot_B = controls.temperature > 0
    y_BV = logits_BV / jnp.where(hot_B, controls.temperature, 1.0)[:, None]
    y_BV = _when(controls.top_k > 0, keep_top_k, y_BV, controls.top_k)
    y_BV = _when(controls.top_p < 1, keep_top_p, y_BV, controls.top_p)
    y_BV = _when(controls.min_p > 0, keep_min_p, y_BV, controls.min_p)

    def noise(seed_2: jax.Array, sample: jax.Array, position: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(seed_2, impl="threefry2x32")
        key = jax.random.fold_in(jax.random.fold_in(key, sample), position)
        return jax.random.gumbel(key, y_BV.shape[1:])

    y_BV = y_BV + jax.vmap(noise)(controls.seed, controls.sample, lengths_B)
    return jnp.argmax(y_BV, axis=-1).astype(jnp.int32)


def _logprobs(logits_BV: jax.Array, ids_B: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    log_BV = jax.nn.log_softmax(logits_BV, axis=-1)
    best, best_ids = jax.lax.top_k(log_BV, min(TOP_LOGPROBS, log_BV.shape[-1]))
    room = ((0, 0), (0, TOP_LOGPROBS - best.shape[-1]))
    chosen_B = jnp.take_along_axis(log_BV, ids_B[:, None], axis=1)[:, 0]
    return chosen_B, jnp.pad(best_ids, room), jnp.pad(best, room, constant_values=-jnp.inf)


def choose(logits_BV: jax.Array, controls: Controls, *, tokens_BS: jax.Array, lengths_B: jax.Array) -> Chosen:
    """The tokens at positions `lengths`, given those before them; each row as if it were alone."""
    b, c = logits_BV.shape[0], controls
    logits_BV = jnp.where(jnp.arange(logits_BV.shape[-1]) < c.vocab[:, None], logits_BV, -jnp.inf)
    punished = (c.repetition != 1) | (c.presence != 0) | (c.frequency != 0)
    more = [(c.bias_ids >= 0).any(), punished.any(), (c.temperature > 0).any(), c.logprobs.any()]

    def greedy(logits_BV: jax.Array, *_: Any) -> Chosen:
        return Chosen(_best(logits_BV), *_nothing(b))

    return jax.lax.cond(jnp.stack(more).any(), _chosen, greedy, logits_BV, c, tokens_BS, lengths_B)


def _best(logits_BV: jax.Array) -> jax.Array:
    """int32 [B]: the first of the largest. In columns, whose maxima the compiler finds many at a time on a CPU."""
    b, v = logits_BV.shape
    width = next((n for n in (256, 128, 64) if v % n == 0 and v > n), None)
    if width is None:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    y_BCW = logits_BV.reshape(b, v // width, width)
    top_B = y_BCW.max(1).max(-1)
    ids_CW = jnp.arange(v, dtype=jnp.int32).reshape(v // width, width)
    found_BCW = jnp.where(y_BCW == top_B[:, None, None], ids_CW, v - 1)
    return found_BCW.min(1).min(-1)


def _nothing(b: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    zeros = jnp.zeros((b,), jnp.float32)
    return zeros, jnp.zeros((b, TOP_LOGPROBS), jnp.int32), jnp.zeros((b, TOP_LOGPROBS), jnp.float32)


def _chosen(logits_BV: jax.Array, controls: Controls, tokens_BS: jax.Array, lengths_B: jax.Array) -> Chosen:
    """`choose`, where a row wants more than the most probable token."""
    c, b = controls, logits_BV.shape[0]
    y_BV = _when(c.bias_ids >= 0, _biased, logits_BV, c.bias_ids, c.bias)
    punished = (c.repetition != 1) | (c.presence != 0) | (c.frequency != 0)
    y_BV = _when(punished, penalised, y_BV, c, tokens_BS, lengths_B)
    ids_B = _best(y_BV)
    hot_B = c.temperature > 0
    drawn_B = jax.lax.cond(jnp.any(hot_B), _drawn, lambda *_: ids_B, y_BV, c, lengths_B)
    ids_B = jnp.where(hot_B, drawn_B, ids_B)
    none = lambda *_: _nothing(b)
    return Chosen(ids_B, *jax.lax.cond(jnp.any(c.logprobs), _logprobs, none, logits_BV, ids_B))


def seed_words(seed: int) -> np.ndarray:
    """uint32 [2]: a seed's high and low word."""
    return np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)
