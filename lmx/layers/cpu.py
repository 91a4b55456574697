"""Products in the forms that XLA's CPU back end hands to its matrix library; nothing here serves TPU or GPU.

What is known of that back end (jaxlib 0.10), and used here:

- bfloat16 x bfloat16 -> float32 reaches the matrix unit (AMX); bfloat16 -> bfloat16 is computed in float32.
- A product goes to the matrix library when its left factor is stored [.., rows, contracted]; the right one may
  be either way round. A left factor contracted over two dimensions is copied into that form first; one
  contracted over its leading dimension alone is left to another routine, a fifth slower and float32 only.
  So the gradient of a weight, which contracts tokens, goes to that routine in float32 (the copy would cost
  more); in bfloat16 it contracts (batch, token), with the narrower of its factors on the left.
- Transposing a product's result makes the compiler turn the product round again: a barrier prevents that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from lmx.layers import decode
from lmx.layers.activations import ACTIVATIONS
from lmx.layers.scores import HIDDEN, block_edges, blockwise, dot_product, visible_keys


def _dot(
    x: jax.Array, y: jax.Array, x_over: tuple[int, ...], y_over: tuple[int, ...], batch: int = 0
) -> jax.Array:
    """float32 product contracting dimensions `x_over` with `y_over`; the first `batch` dimensions go along."""
    along = tuple(range(batch))
    return jax.lax.dot_general(x, y, ((x_over, y_over), (along, along)), preferred_element_type=jnp.float32)


def _matrix_form(spec: str) -> int | None:
    """How many letters are contracted when `spec` is "<rows><over>,<over><columns>-><rows><columns>", else None."""
    inputs, y = spec.split("->")
    x, w = inputs.split(",")
    over = next((n for n in range(len(w), 0, -1) if x.endswith(w[:n])), 0)
    return over if over and x[:-over] + w[over:] == y and len(x) - over == 2 else None


def einsum(spec: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """Activations [B, T, ...] times a weight whose leading axes they end in; any other spec is `jnp.einsum`.

    The gradient of `w` is float32 when `w` is, whatever the dtype of `x`.
    """
    over = _matrix_form(spec)
    if over is None:
        return jnp.einsum(spec, x, w.astype(x.dtype))
    rows, columns = x.shape[:2], w.shape[over:]
    y = _product(x.reshape(*rows, -1), w.reshape(math.prod(w.shape[:over]), -1))
    return y.reshape(*rows, *columns)


def einsums(specs: Sequence[str], x: jax.Array, weights: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """Several products of the same activations, as one: a wider product, and no sum of gradients of `x`."""
    overs = [_matrix_form(spec) for spec in specs]
    if None in overs:
        return tuple(einsum(spec, x, w) for spec, w in zip(specs, weights, strict=True))
    rows = x.shape[:2]
    columns = [w.shape[over:] for over, w in zip(overs, weights, strict=True)]
    sizes = [math.prod(c) for c in columns]
    k = math.prod(x.shape) // math.prod(rows)
    whole = jnp.concatenate([w.reshape(k, -1) for w in weights], axis=1)
    parts = jax.lax.split(_product(x.reshape(*rows, k), whole), sizes, axis=2)
    return tuple(part.reshape(*rows, *c) for part, c in zip(parts, columns, strict=True))


@jax.custom_vjp
def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    """[B, T, K] times [K, M], in the dtype of `x`."""
    return _dot(x, w.astype(x.dtype), (2,), (0,)).astype(x.dtype)


def _product_forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x, w), (x, w)


def _product_backward(kept: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    dx = _dot(dy, w.astype(x.dtype), (2,), (1,)).astype(x.dtype)
    return dx, token_product(x, dy).astype(w.dtype)


_product.defvjp(_product_forward, _product_backward)


def token_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """float32 [K, M]: the sum over batch and tokens of [B, T, K] times [B, T, M]."""
    k, m = x.shape[2], y.shape[2]
    if k > m:
        return jax.lax.optimization_barrier(token_product(y, x)).T
    if x.dtype == jnp.float32:
        return _dot(x.reshape(-1, k), y.reshape(-1, m), (0,), (0,))
    return _dot(x, y, (0, 1), (0, 1))


def _sigmoid_gated(inner, slope):
    """x * sigmoid(inner(x)), through tanh (cheaper than exp), with its derivative written out."""

    def sigmoid(z: jax.Array) -> jax.Array:
        return 0.5 + 0.5 * jnp.tanh(0.5 * inner(z))

    @jax.custom_vjp
    def function(x: jax.Array) -> jax.Array:
        z = x.astype(jnp.float32)
        return (z * sigmoid(z)).astype(x.dtype)

    def backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
        z = x.astype(jnp.float32)
        s = sigmoid(z)
        return ((dy.astype(jnp.float32) * (s + z * s * (1 - s) * slope(z))).astype(x.dtype),)

    function.defvjp(lambda x: (function(x), x), backward)
    return function


_TANH = 2 * (2 / jnp.pi) ** 0.5  # gelu's tanh form is x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)

CPU_ACTIVATIONS = ACTIVATIONS | {
    "gelu_tanh": _sigmoid_gated(
        lambda z: _TANH * (z + 0.044715 * z * z * z), lambda z: _TANH * (1 + 0.134145 * z * z)
    ),
    "quick_gelu": _sigmoid_gated(lambda z: 1.702 * z, lambda z: 1.702),
    "silu": _sigmoid_gated(lambda z: z, lambda z: 1.0),
}


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    q_positions_BT: jax.Array | None = None,
    k_positions_BS: jax.Array | None = None,
    q_segments_BT: jax.Array | None = None,
    k_segments_BS: jax.Array | None = None,
    sinks_N: jax.Array | None = None,
    window: int | None,
    softcap: float | None,
    scale: float,
    blocks: int,
) -> jax.Array:
    """As `lmx.layers.scores`, in blocks of queries whose weights are kept for the backward pass.

    Meant for training on sequences of some thousand tokens: memory grows as T x S / 2. With positions (a cache) it
    is `decode.attention` or `dot_product`, with sinks `blockwise`: their gradient is not written out here, as no
    model of a size that is trained on CPU has them.
    """
    if q_positions_BT is not None and k_positions_BS is not None and q_BTNH.shape[1] == 1:
        return decode.attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            q_positions_BT=q_positions_BT,
            k_positions_BS=k_positions_BS,
            q_segments_BT=q_segments_BT,
            k_segments_BS=k_segments_BS,
            sinks_N=sinks_N,
            window=window,
            softcap=softcap,
            scale=scale,
        )
    plain = partial(dot_product if sinks_N is None else partial(blockwise, blocks=blocks), sinks_N=sinks_N)
    if q_positions_BT is not None or k_positions_BS is not None or sinks_N is not None:
        return plain(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            q_positions_BT=q_positions_BT,
            k_positions_BS=k_positions_BS,
            q_segments_BT=q_segments_BT,
            k_segments_BS=k_segments_BS,
            window=window,
            softcap=softcap,
            scale=scale,
        )
    return _attention(window, softcap, scale, blocks, q_BTNH, k_BSKH, v_BSKH, q_segments_BT)


def _rows(x_BTNH: jax.Array, start: int, end: int, groups: int) -> jax.Array:
    """[B, T, N, H] -> tokens start..end-1 as matrices [B * N / groups, groups * tokens, H]."""
    b, _, n, h = x_BTNH.shape
    x = x_BTNH[:, start:end].reshape(b, end - start, n // groups, groups, h)
    return x.transpose(0, 2, 3, 1, 4).reshape(b * n // groups, groups * (end - start), h)


def _unrows(x: jax.Array, batch: int, groups: int) -> jax.Array:
    """The inverse of `_rows`: [B * K, groups * tokens, H] -> [B, tokens, K * groups, H]."""
    x = x.reshape(batch, x.shape[0] // batch, groups, x.shape[1] // groups, x.shape[2])
    x = x.transpose(0, 3, 1, 2, 4)
    return x.reshape(*x.shape[:2], -1, x.shape[4])


def _seen(start: int, end: int, first: int, window: int | None, segments_BT: jax.Array | None) -> jax.Array:
    """Whether queries start..end-1 see keys first..end-1, bool [B or 1, 1, 1, queries, keys]."""
    q, k = jnp.arange(start, end)[:, None], jnp.arange(first, end)[None]
    seen = (k <= q)[None]
    if window is not None and end - 1 - first >= window:
        seen = seen & (k > q - window)
    if segments_BT is not None:
        mine = segments_BT[:, start:end, None]
        seen = seen & (mine == segments_BT[:, None, first:end]) & (mine != 0)
    return seen[:, None, None]


def _attention_forward(window, softcap, scale, blocks, q_BTNH, k_BSKH, v_BSKH, segments_BT):
    b, t, n, _ = q_BTNH.shape
    groups = n // k_BSKH.shape[2]
    outputs, kept = [], []
    for start, end in block_edges(t, blocks):
        first = visible_keys(start, end, window)
        q, k, v = (
            _rows(q_BTNH, start, end, groups),
            _rows(k_BSKH, first, end, 1),
            _rows(v_BSKH, first, end, 1),
        )
        s = _dot(q, k, (2,), (2,), batch=1) * scale
        slope = None
        if softcap is not None:
            s = softcap * jnp.tanh(s / softcap)
            slope = 1 - jnp.square(s / softcap)
        seen = _seen(start, end, first, window, segments_BT)
        split = (b, -1, groups, end - start, end - first)
        s = jnp.where(seen, s.reshape(split), HIDDEN).reshape(s.shape)
        e = jnp.exp(s - s.max(-1, keepdims=True))
        if segments_BT is not None:  # a query of padding sees nothing: its largest score is HIDDEN itself
            e = jnp.where(seen, e.reshape(split), 0.0).reshape(e.shape)
        total = jnp.maximum(e.sum(-1, keepdims=True), 1e-30)
        weights = e.astype(v.dtype)
        o = _dot(weights, v, (2,), (1,), batch=1) / total
        outputs.append(_unrows(o.astype(q.dtype), b, groups))
        slopes = None if slope is None else (e * slope).astype(v.dtype)
        kept.append((q, k, v, weights, slopes, total))
    o_BTNH = jnp.concatenate(outputs, axis=1)
    return o_BTNH, (kept, o_BTNH)


def _attention_backward(window, softcap, scale, blocks, residuals, do_BTNH):
    kept, o_BTNH = residuals
    b, t, n, _ = o_BTNH.shape
    n_kv = kept[0][1].shape[0] // b
    groups = n // n_kv
    inner = jnp.sum(do_BTNH.astype(jnp.float32) * o_BTNH.astype(jnp.float32), axis=-1, keepdims=True)
    dq_blocks, dk_blocks, dv_blocks = [], [], []
    for (start, end), (q, k, v, weights, slopes, total) in zip(block_edges(t, blocks), kept, strict=True):
        first = visible_keys(start, end, window)
        # The weights are not yet divided by their total: do and its inner product with o are, in their stead.
        do = (_rows(do_BTNH, start, end, groups).astype(jnp.float32) / total).astype(q.dtype)
        dp = _dot(do, v, (2,), (2,), batch=1)
        ds = weights if slopes is None else slopes
        ds = (ds.astype(jnp.float32) * (dp - _rows(inner, start, end, groups) / total)).astype(q.dtype)
        dq = _dot(ds, k, (2,), (1,), batch=1) * scale
        dq_blocks.append(_unrows(dq.astype(q.dtype), b, groups))
        one = lambda x: x[:, None]
        dk_blocks.append((first, end, _dot(one(q), one(ds), (1, 2), (1, 2), batch=1)))
        dv_blocks.append((first, end, _dot(one(do), one(weights), (1, 2), (1, 2), batch=1)))

    def keys(parts: list[tuple[int, int, jax.Array]], factor: float) -> jax.Array:
        """The sum [B, S, K, H] of parts [B * K, H, first..end], one range of keys after another."""
        edges = sorted({edge for first, end, _ in parts for edge in (first, end)})
        ranges = []
        for low, high in itertools.pairwise(edges):
            found = [
                part[:, :, low - first : high - first] for first, end, part in parts if first <= low < end
            ]
            whole = (sum(found[1:], found[0]) * factor).astype(o_BTNH.dtype)
            ranges.append(whole.reshape(b, n_kv, -1, high - low).transpose(0, 3, 1, 2))
        return jnp.concatenate(ranges, axis=1)

    return jnp.concatenate(dq_blocks, axis=1), keys(dk_blocks, scale), keys(dv_blocks, 1.0), None


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _attention(window, softcap, scale, blocks, q_BTNH, k_BSKH, v_BSKH, segments_BT):
    return _attention_forward(window, softcap, scale, blocks, q_BTNH, k_BSKH, v_BSKH, segments_BT)[0]


_attention.defvjp(_attention_forward, _attention_backward)
