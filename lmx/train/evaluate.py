"""Evaluation: loss in nats a token and in bits a byte of text, over a fixed set of examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmx.layers.kernels import KernelSet
from lmx.models.model import Model
from lmx.types import Batch, Tree


class Evaluation(NamedTuple):
    """loss in nats a token; bits_per_byte (None where tokens stand for no bytes); tokens counted."""

    loss: float
    bits_per_byte: float | None
    tokens: int


def byte_table(token_bytes: np.ndarray | None, vocab_size: int) -> np.ndarray:
    """float32 [vocab_size]: bytes that each id stands for; NaN where nobody knows."""
    table = np.full(vocab_size, np.nan, np.float32)
    if token_bytes is not None:
        table[: len(token_bytes)] = token_bytes[:vocab_size]
    return table


def make_eval_step(model: Model, kernels: KernelSet) -> Callable[[Tree, Batch, jax.Array], jax.Array]:
    """(params, batch, byte_table) -> float32 [3]: sums over the batch of loss, of weights, of the targets' bytes."""

    def step(params: Tree, batch: Batch, table_V: jax.Array) -> jax.Array:
        out = model.forward(params, batch.tokens, batch.positions, segments_BT=batch.segments)
        losses = kernels.cross_entropy(
            out.hidden, model.head(params), batch.targets, batch.weights, z_loss=0.0
        )
        counted = batch.weights.astype(jnp.float32)
        n_bytes = (_bytes_of(table_V, batch.targets) * counted).sum()
        return jnp.stack([losses.nll, counted.sum(), n_bytes])

    return step


def _bytes_of(table_V: jax.Array, ids_BT: jax.Array) -> jax.Array:
    return table_V.at[ids_BT].get(mode="fill", fill_value=jnp.nan)


def evaluate(step: Callable[[Tree, Batch], jax.Array], params: Tree, batches: Iterable[Batch]) -> Evaluation:
    """Mean over all batches; ValueError when no token counts."""
    total = np.zeros(3)
    pending = None
    for batch in batches:
        sums = step(params, batch)
        if pending is not None:
            total += np.asarray(pending, np.float64)
        pending = sums
    if pending is not None:
        total += np.asarray(pending, np.float64)
    loss_sum, weight, n_bytes = total
    if weight == 0:
        raise ValueError("data: the evaluation split has no token whose loss counts; give it more text")
    bits = loss_sum / math.log(2) / n_bytes if n_bytes > 0 else None
    return Evaluation(float(loss_sum / weight), bits, round(float(weight)))
