"""Cross-entropy over a large vocabulary: the logits of a few tokens at a time, and their gradient at once.

The pass that computes the loss of a chunk of tokens also computes the gradients with respect to the hidden
states and to the head, while the chunk's logits are at hand: three matrix products a chunk, no logits kept.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmx.layers.spread import Spread, over_devices


class Head(NamedTuple):
    """The output projection.

    weight   [V, D], the embedding itself when tied, in any dtype (products are in the dtype of the hidden states)
    softcap  logits become softcap * tanh(logits / softcap); None: left alone
    bias     [V], or None
    """

    weight: jax.Array
    softcap: float | None = None
    bias: jax.Array | None = None


class Losses(NamedTuple):
    """Sums over tokens, each times its weight; float32 scalars.

    total     nll + z: what is to be differentiated (the other two carry no gradient)
    nll       negative log-likelihood, nats
    z         z_loss * log(sum of exp(logits))^2 (arXiv:2204.02311, section 5)
    """

    total: jax.Array
    nll: jax.Array
    z: jax.Array


def logits(hidden: jax.Array, head: Head) -> jax.Array:
    """float32 logits [..., V] of hidden states [..., D]."""
    raw = jnp.einsum(
        "...d,vd->...v", hidden, head.weight.astype(hidden.dtype), preferred_element_type=jnp.float32
    )
    if head.bias is not None:
        raw = raw + head.bias.astype(jnp.float32)
    return raw if head.softcap is None else head.softcap * jnp.tanh(raw / head.softcap)


def n_chunks(n_tokens: int, vocab_size: int, *, logits_mib: float, n_devices: int) -> int:
    """Chunks of tokens such that the float32 logits of one take at most `logits_mib` on each device."""
    return max(1, min(n_tokens, math.ceil(n_tokens * vocab_size * 4 / n_devices / (logits_mib * 2**20))))


def cross_entropy(
    hidden_BTD: jax.Array,
    head: Head,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    z_loss: float,
    chunks: int,
    turned: bool = False,
    spread: Spread | None = None,
) -> Losses:
    """Weighted sums of the losses, computed in `chunks` pieces along T. Only `total` is differentiable.

    Exact in any number of chunks: the gradients are sums over tokens, accumulated in float32. Not
    differentiable twice. `turned`: the head's gradient is summed as [D, V] and turned once at the end, which
    spares a CPU the turning of every chunk's logits. `spread`: each device computes its own tokens in so many pieces.
    """
    chunks = min(chunks, hidden_BTD.shape[1] // (1 if spread is None else spread.length_ways))
    result: Any = _total(
        head.softcap,
        z_loss,
        chunks,
        turned and chunks > 1,
        spread,
        hidden_BTD,
        head.weight,
        head.bias,
        targets_BT,
        weights_BT,
    )
    total, (nll, z) = result
    return Losses(total, jax.lax.stop_gradient(nll), jax.lax.stop_gradient(z))


def token_losses(hidden_BTD: jax.Array, head: Head, targets_BT: jax.Array, *, chunks: int) -> jax.Array:
    """Negative log-likelihood of every token, float32 [B, T], computed in `chunks` pieces along T."""
    chunks = min(chunks, hidden_BTD.shape[1])

    def one(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
        hidden, targets = chunk
        log_z, target = _log_z_and_target(logits(hidden, head), targets)
        return log_z - target

    if chunks == 1:
        return one((hidden_BTD, targets_BT))
    split = (_split(hidden_BTD, chunks), _split(targets_BT, chunks))
    return _join(jax.lax.map(one, split), hidden_BTD.shape[1])


def _split(x: jax.Array, chunks: int) -> jax.Array:
    """[B, T, ...] -> [chunks, B, ceil(T / chunks), ...], zeros after the end."""
    size = -(-x.shape[1] // chunks)
    padding = [(0, 0), (0, size * chunks - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    return jnp.moveaxis(jnp.pad(x, padding).reshape(x.shape[0], chunks, size, *x.shape[2:]), 1, 0)


def _join(x: jax.Array, length: int) -> jax.Array:
    """The inverse of `_split`."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def _log_z_and_target(logits_BTV: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log(sum of exp(logits)) and the logit of the target. A comparison instead of a gather: V may be sharded."""
    is_target = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    target = jnp.where(is_target, logits_BTV, 0.0).sum(-1)
    return jax.nn.logsumexp(logits_BTV, axis=-1), target


class _Sums(NamedTuple):
    """What one chunk, or all of them, add up to; gradients are of `total`."""

    nll: jax.Array
    z: jax.Array
    d_weight: jax.Array
    d_bias: jax.Array | None


def _chunk(
    softcap: float | None,
    z_loss: float,
    turned: bool,
    hidden: jax.Array,
    head: Head,
    targets: jax.Array,
    weights: jax.Array,
) -> tuple[_Sums, jax.Array]:
    """Sums of one chunk and the gradient with respect to its hidden states."""
    capped = logits(hidden, head)
    is_target = jnp.arange(capped.shape[-1]) == targets[..., None]
    top = capped.max(-1, keepdims=True)
    exps = jnp.exp(capped - top)  # once: both the sum and the gradient are made from it
    total = exps.sum(-1, keepdims=True)
    log_z = (jnp.log(total) + top)[..., 0]
    target = jnp.where(is_target, capped, 0.0).sum(-1)  # no gather: V may be sharded
    sums = (weights * (log_z - target)).sum(), z_loss * (weights * log_z * log_z).sum()
    # d total / d logits = weight (softmax (1 + 2 z_loss log_z) - one_hot)
    scale = (weights * (1 + 2 * z_loss * log_z))[..., None] / total
    d_logits = exps * scale - jnp.where(is_target, weights[..., None], 0.0)
    if softcap is not None:
        d_logits = d_logits * (1 - (capped / softcap) ** 2)
    d_bias = None if head.bias is None else d_logits.sum((0, 1))
    d_logits = d_logits.astype(hidden.dtype)
    d_hidden = jnp.einsum("btv,vd->btd", d_logits, head.weight, preferred_element_type=jnp.float32)
    if turned:
        d_weight = jnp.einsum("btd,btv->dv", hidden, d_logits, preferred_element_type=jnp.float32)
    else:
        d_weight = jnp.einsum("btv,btd->vd", d_logits, hidden, preferred_element_type=jnp.float32)
    return _Sums(*sums, d_weight, d_bias), d_hidden.astype(hidden.dtype)


def _evaluate(
    softcap, z_loss, chunks, turned, spread, hidden, weight, bias, targets, weights
) -> tuple[_Sums, jax.Array]:
    weight, weights = weight.astype(hidden.dtype), weights.astype(jnp.float32)
    if spread is not None:
        local = partial(_evaluate, softcap, z_loss, chunks, turned, None)
        return over_devices(spread, local)(hidden, weight, bias, targets, weights)
    head = Head(weight, softcap, bias)
    if chunks == 1:
        return _chunk(softcap, z_loss, turned, hidden, head, targets, weights)

    def step(sums: _Sums, chunk: tuple) -> tuple[_Sums, jax.Array]:
        part, d_hidden = _chunk(softcap, z_loss, turned, chunk[0], head, chunk[1], chunk[2])
        return jax.tree.map(jnp.add, sums, part), d_hidden

    zero = jnp.zeros((), jnp.float32)
    start = _Sums(
        zero,
        zero,
        jnp.zeros(weight.shape[::-1] if turned else weight.shape, jnp.float32),
        None if bias is None else jnp.zeros(bias.shape, jnp.float32),
    )
    parts = tuple(_split(x, chunks) for x in (hidden, targets, weights))
    sums, d_hidden = jax.lax.scan(step, start, parts)
    if turned:
        sums = sums._replace(d_weight=sums.d_weight.T)
    return sums, _join(d_hidden, hidden.shape[1])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3, 4))
def _total(softcap, z_loss, chunks, turned, spread, hidden, weight, bias, targets, weights):
    sums, _ = _evaluate(softcap, z_loss, chunks, turned, spread, hidden, weight, bias, targets, weights)
    return sums.nll + sums.z, (sums.nll, sums.z)


def _forward(softcap, z_loss, chunks, turned, spread, hidden, weight, bias, targets, weights):
    sums, d_hidden = _evaluate(
        softcap, z_loss, chunks, turned, spread, hidden, weight, bias, targets, weights
    )
    d_weight = sums.d_weight.astype(weight.dtype)
    d_bias = None if bias is None or sums.d_bias is None else sums.d_bias.astype(bias.dtype)
    return (sums.nll + sums.z, (sums.nll, sums.z)), (d_hidden, d_weight, d_bias)


def _backward(softcap, z_loss, chunks, turned, spread, gradients, cotangents):
    factor, _ = cotangents
    return (*jax.tree.map(lambda g: g * factor.astype(g.dtype), gradients), None, None)


_total.defvjp(_forward, _backward)
