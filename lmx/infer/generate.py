"""Continuations of prompts: prefill, then a loop that stays on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lmx.infer.sampling import sample
from lmx.layers.loss import logits
from lmx.models.model import Model
from lmx.types import Tree


def check_length(model: Model, prompt: int, n_tokens: int) -> None:
    """ValueError when prompt and continuation do not fit the model's positions, or the prompt is empty."""
    if prompt == 0:
        raise ValueError("prompt: empty; it needs at least one token")
    limit = model.config.max_length()
    if limit is not None and prompt + n_tokens > limit:
        raise ValueError(
            f"prompt of {prompt} tokens and max_new_tokens={n_tokens} exceed the model's {limit} positions; "
            f"max_new_tokens={max(limit - prompt, 0)} would fit"
        )


def make_generate(
    model: Model,
    n_tokens: int,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    vocab_size: int | None = None,
    eos_id: int | None = None,
) -> Callable[[Tree, jax.Array, int], jax.Array]:
    """A compiled function (params, prompt_BT, seed) -> int32 [B, n_tokens], new ids after each prompt.

    prompt_BT are ids of equal length, at least one; after `eos_id` a row goes on with `eos_id`. Ids from
    `vocab_size` on (padding of the vocabulary) are never chosen.
    """

    def choose(
        params: Tree, hidden_BTD: jax.Array, key: jax.Array, done_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        y_BV = logits(hidden_BTD[:, -1], model.head(params))
        if vocab_size is not None and vocab_size < y_BV.shape[-1]:
            y_BV = jnp.where(jnp.arange(y_BV.shape[-1]) < vocab_size, y_BV, -jnp.inf)
        ids_B = sample(y_BV, key, temperature=temperature, top_k=top_k, top_p=top_p)
        if eos_id is not None:
            ids_B = jnp.where(done_B, eos_id, ids_B)
            done_B = done_B | (ids_B == eos_id)
        return ids_B, done_B

    def run(params: Tree, prompt_BT: jax.Array, seed: Any) -> jax.Array:
        b, t = prompt_BT.shape
        root = jax.random.key(seed)
        out = model.forward(params, prompt_BT, cache=model.init_cache(b, t + n_tokens))
        ids_B, done_B = choose(params, out.hidden, jax.random.fold_in(root, 0), jnp.zeros((b,), bool))
        new_BT = jnp.zeros((b, n_tokens), jnp.int32).at[:, 0].set(ids_B)

        def advance(i: Any, carry: tuple) -> tuple:
            cache, ids_B, done_B, new_BT = carry
            out = model.forward(params, ids_B[:, None], cache=cache)
            ids_B, done_B = choose(params, out.hidden, jax.random.fold_in(root, i), done_B)
            return out.cache, ids_B, done_B, new_BT.at[:, i].set(ids_B)

        return jax.lax.fori_loop(1, n_tokens, advance, (out.cache, ids_B, done_B, new_BT))[3]

    return jax.jit(run)
