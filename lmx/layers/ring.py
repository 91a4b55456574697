"""Ring attention (arXiv:2310.01889), causal, with equal work for all devices (arXiv:2311.09431).

Each of n devices holds a stretch of the sequence. Inside, stretches are cut in halves and exchanged, so that device i
has parts i and 2n-1-i of 2n: an early and a late one. Keys and values then go around; at every step but the first each
device multiplies two pairs of parts, and none that causality hides. Softmaxes of the steps are joined by their
log-sum-exp. The backward pass goes around once more, the gradients of keys and values along with them, so that no
device ever holds the keys of the whole sequence.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmx.layers.names import ATTENTION_CONTEXT, named
from lmx.layers.scores import HIDDEN, mask

Place = tuple[jax.Array, int, tuple[str, ...]]
"""Index of a device along the split sequence, how many there are, and the mesh axes."""


class Knobs(NamedTuple):
    """What does not change within a call.

    n, axes         devices of the ring, and the mesh axes that it goes over
    window          tokens that a query sees, or None
    softcap, scale  as of `lmx.layers.scores`
    block           queries looked at together
    """

    n: int
    axes: tuple[str, ...]
    window: int | None
    softcap: float | None
    scale: float
    block: int


class Part(NamedTuple):
    """Keys, values and segments of one part of the sequence, and where it starts."""

    k: jax.Array
    v: jax.Array
    ids: jax.Array | None
    start: jax.Array


def attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    ids_BT: jax.Array | None,
    *,
    place: Place,
    sinks_N: jax.Array | None,
    window: int | None,
    softcap: float | None,
    scale: float,
    block: int,
) -> jax.Array:
    """This device's stretch of the output, [B, T, N, H'] in the dtype of q. Inside `jax.shard_map` over the axes."""
    index, n, axes = place
    b, t, heads, width = q_BTNH.shape
    knobs = Knobs(n, axes, window, softcap, scale, block)
    q_BTKGH = q_BTNH.reshape(b, t, k_BTKH.shape[2], -1, width)
    q, k, v, ids = (_exchange(x, index, n, axes) for x in (q_BTKGH, k_BTKH, v_BTKH, ids_BT))
    sinks_KG = None if sinks_N is None else sinks_N.astype(jnp.float32).reshape(k_BTKH.shape[2], -1)
    o_BTKGH = _ring(knobs, q, k, v, sinks_KG, ids, index)
    return _exchange(o_BTKGH, index, n, axes, back=True).reshape(b, t, heads, -1)


def _exchange(x: Any, index: jax.Array, n: int, axes: tuple[str, ...], *, back: bool = False) -> Any:
    """A device's stretch [B, T, ...] -> its early and its late part, one after the other; `back`: the inverse."""
    if x is None:
        return None
    home = lambda part: part if part < n else 2 * n - 1 - part
    even, odd = ([(i, home(2 * i + side)) for i in range(n)] for side in (0, 1))
    first, second = jnp.split(x, 2, axis=1)
    if not back:
        from_even, from_odd = jax.lax.ppermute(first, axes, even), jax.lax.ppermute(second, axes, odd)
        early = jnp.where(index % 2 == 0, from_even, from_odd)
        late = jnp.where(index % 2 == 0, from_odd, from_even)
        return jnp.concatenate([early, late], axis=1)
    to_even = jnp.where(index % 2 == 0, first, second)
    to_odd = jnp.where(index % 2 == 0, second, first)
    inverse = lambda pairs: [(b, a) for a, b in pairs]
    stretch = jax.lax.ppermute(to_even, axes, inverse(even)), jax.lax.ppermute(to_odd, axes, inverse(odd))
    return jnp.concatenate(stretch, axis=1)


def _halves(x: Any) -> tuple[Any, Any]:
    return (None, None) if x is None else tuple(jnp.split(x, 2, axis=1))  # type: ignore[return-value]


def _parts(brought: Any, index: jax.Array, n: int) -> tuple[Part, Part]:
    """The early and the late part of what device `index` brought into the ring."""
    (k1, k2), (v1, v2), (i1, i2) = (_halves(x) for x in brought)
    size = k1.shape[1]
    return Part(k1, v1, i1, index * size), Part(k2, v2, i2, (2 * n - 1 - index) * size)


def _choose(which: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), yes, no)


def _turn(x: Any, knobs: Knobs) -> Any:
    pairs = [(i, (i + 1) % knobs.n) for i in range(knobs.n)]
    return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, knobs.axes, pairs), x)


def _seen(q_start: Any, length: int, q_ids: Any, part: Part, knobs: Knobs) -> jax.Array:
    """bool [B or 1, 1, 1, T, S]"""
    return mask(
        (q_start + jnp.arange(length))[None],
        (part.start + jnp.arange(part.k.shape[1]))[None],
        q_segments_BT=q_ids,
        k_segments_BS=part.ids,
        window=knobs.window,
    )[:, None, None]


def _scores(q_BTKGH: jax.Array, k_BSKH: jax.Array, knobs: Knobs) -> jax.Array:
    raw = jnp.einsum("btkgh,bskh->bkgts", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32) * knobs.scale
    return raw if knobs.softcap is None else knobs.softcap * jnp.tanh(raw / knobs.softcap)


def _in_blocks(function: Any, carry: Any, queries: Any, start: Any, block: int) -> tuple[Any, Any]:
    """`function(carry, start, block of queries) -> (carry, outputs)` over blocks of axis 1, the outputs joined."""
    length = jax.tree.leaves(queries)[0].shape[1]
    n = next(n for n in range(-(-length // block), length + 1) if length % n == 0)
    cut = lambda x: jnp.moveaxis(x.reshape(x.shape[0], n, length // n, *x.shape[2:]), 1, 0)
    starts = start + jnp.arange(n) * (length // n)
    carry, outputs = jax.lax.scan(
        lambda c, x: function(c, x[0], x[1]), carry, (starts, jax.tree.map(cut, queries))
    )
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], length, *x.shape[3:])
    return carry, jax.tree.map(join, outputs)


Softmax = tuple[jax.Array, jax.Array]
"""Output [B, T, K, G, H'] float32, and the log-sum-exp [B, T, K, G] of its scores (HIDDEN where none is seen)."""


def _attend(q: jax.Array, q_ids: Any, q_start: Any, part: Part, knobs: Knobs) -> Softmax:
    """One part of the queries and one of the keys."""

    def one(_: Any, start: jax.Array, queries: tuple) -> tuple[Any, Softmax]:
        q_BTKGH, ids = queries
        seen = _seen(start, q_BTKGH.shape[1], ids, part, knobs)
        scores = jnp.where(seen, _scores(q_BTKGH, part.k, knobs), HIDDEN)
        top = scores.max(-1, keepdims=True)
        weights = jnp.where(seen, jnp.exp(scores - top), 0.0)
        total_BTKG = jnp.einsum("bkgts->btkg", weights)
        o = jnp.einsum(
            "bkgts,bskh->btkgh", weights.astype(part.v.dtype), part.v, preferred_element_type=jnp.float32
        )
        lse = jnp.where(total_BTKG > 0, jnp.einsum("bkgt->btkg", top[..., 0]) + jnp.log(total_BTKG), HIDDEN)
        return None, (o / jnp.maximum(total_BTKG, 1e-30)[..., None], lse)

    return _in_blocks(one, None, (q, q_ids), q_start, knobs.block)[1]


def _join(one: Softmax, other: Softmax, where: jax.Array | None = None) -> Softmax:
    """The softmax over the keys of both; over those of the first alone unless `where`."""
    (o1, l1), (o2, l2) = one, other
    if where is not None:
        l2 = jnp.where(where, l2, HIDDEN)
    lse = jnp.logaddexp(l1, l2)
    return o1 * jnp.exp(l1 - lse)[..., None] + o2 * jnp.exp(l2 - lse)[..., None], lse


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(
    knobs: Knobs, q: jax.Array, k: jax.Array, v: jax.Array, sinks_KG: Any, ids: Any, index: jax.Array
) -> jax.Array:
    """Early and late part in, the same out."""
    return _forward(knobs, q, k, v, sinks_KG, ids, index)[0]


def _forward(
    knobs: Knobs, q: jax.Array, k: jax.Array, v: jax.Array, sinks_KG: Any, ids: Any, index: jax.Array
) -> tuple[jax.Array, Any]:
    n, size = knobs.n, q.shape[1] // 2
    (q1, q2), (ids1, ids2) = _halves(q), _halves(ids)
    start1, start2 = index * size, (2 * n - 1 - index) * size
    moving = _turn((k, v, ids), knobs)
    own1, own2 = _parts((k, v, ids), index, n)
    early = _attend(q1, ids1, start1, own1, knobs)
    late = _join(_attend(q2, ids2, start2, own2, knobs), _attend(q2, ids2, start2, own1, knobs))

    def step(carry: Any, s: jax.Array) -> tuple[Any, None]:
        early, late, moving = carry
        following = _turn(moving, knobs)
        part1, part2 = _parts(moving, (index - s) % n, n)
        late = _join(late, _attend(q2, ids2, start2, part1, knobs))
        # Keys of an earlier device: its early part is seen by both parts here. Of a later one: both are, by the late.
        from_earlier = s <= index
        queries, ids_, start = _choose(from_earlier, (q1, ids1, start1), (q2, ids2, start2))
        other = _attend(queries, ids_, start, _choose(from_earlier, part1, part2), knobs)
        return (_join(early, other, from_earlier), _join(late, other, ~from_earlier), following), None

    (early, late, _), _ = jax.lax.scan(step, (early, late, moving), jnp.arange(1, n))
    o, lse = (jnp.concatenate(pair, axis=1) for pair in zip(early, late, strict=True))
    if sinks_KG is not None:
        whole = jnp.logaddexp(lse, sinks_KG)
        o, lse = o * jnp.exp(lse - whole)[..., None], whole
    o = named(o.astype(q.dtype), ATTENTION_CONTEXT)
    return o, (q, k, v, sinks_KG, ids, index, o, named(lse, ATTENTION_CONTEXT))


class _Query(NamedTuple):
    """What the backward pass needs to know of one part of the queries."""

    q: jax.Array
    ids: Any
    d_o: jax.Array
    lse: jax.Array
    delta: jax.Array


def _attend_backward(
    query: _Query, q_start: Any, part: Part, knobs: Knobs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of the queries, of the keys and of the values, float32."""

    def one(carry: tuple, start: jax.Array, block: _Query) -> tuple[tuple, jax.Array]:
        d_k, d_v = carry
        seen = _seen(start, block.q.shape[1], block.ids, part, knobs)
        scores = _scores(block.q, part.k, knobs)
        lse, delta = (jnp.einsum("btkg->bkgt", x)[..., None] for x in (block.lse, block.delta))
        weights = jnp.where(seen, jnp.exp(scores - lse), 0.0)
        of = partial(jnp.einsum, preferred_element_type=jnp.float32)
        d_v = d_v + of("bkgts,btkgh->bskh", weights.astype(block.d_o.dtype), block.d_o)
        d_scores = weights * (of("btkgh,bskh->bkgts", block.d_o, part.v) - delta)
        if knobs.softcap is not None:
            d_scores = d_scores * (1 - (scores / knobs.softcap) ** 2)
        d_scores = (d_scores * knobs.scale).astype(block.q.dtype)
        d_k = d_k + of("bkgts,btkgh->bskh", d_scores, block.q)
        return (d_k, d_v), of("bkgts,bskh->btkgh", d_scores, part.k)

    zero = jnp.zeros(part.k.shape, jnp.float32), jnp.zeros(part.v.shape, jnp.float32)
    (d_k, d_v), d_q = _in_blocks(one, zero, query, q_start, knobs.block)
    return d_q, d_k, d_v


def _backward(knobs: Knobs, kept: Any, d_o: jax.Array) -> tuple:
    q, k, v, sinks_KG, ids, index, o, lse = kept
    n, size = knobs.n, q.shape[1] // 2
    start1, start2 = index * size, (2 * n - 1 - index) * size
    delta = (d_o.astype(jnp.float32) * o.astype(jnp.float32)).sum(-1)
    query1, query2 = (
        _Query(*half) for half in zip(*(_halves(x) for x in (q, ids, d_o, lse, delta)), strict=True)
    )
    moving = _turn((k, v, ids), knobs)
    own1, own2 = _parts((k, v, ids), index, n)
    d_q1, *d_own1 = _attend_backward(query1, start1, own1, knobs)
    d_q2, *d_also1 = _attend_backward(query2, start2, own1, knobs)
    d_more2, *d_own2 = _attend_backward(query2, start2, own2, knobs)
    d_kv = [jnp.concatenate([a + b, c], axis=1) for a, b, c in zip(d_own1, d_also1, d_own2, strict=True)]

    def step(carry: Any, s: jax.Array) -> tuple[Any, None]:
        d_q1, d_q2, d_kv, moving = carry
        d_kv = _turn(d_kv, knobs)
        following = _turn(moving, knobs)
        part1, part2 = _parts(moving, (index - s) % n, n)
        d_late, *d_part1 = _attend_backward(query2, start2, part1, knobs)
        from_earlier = s <= index
        query, start = _choose(from_earlier, (query1, start1), (query2, start2))
        d_other, *d_chosen = _attend_backward(query, start, _choose(from_earlier, part1, part2), knobs)
        d_q1 = d_q1 + jnp.where(from_earlier, d_other, 0.0)
        d_q2 = d_q2 + d_late + jnp.where(from_earlier, 0.0, d_other)
        added = [
            jnp.concatenate([a + jnp.where(from_earlier, b, 0.0), jnp.where(from_earlier, 0.0, b)], axis=1)
            for a, b in zip(d_part1, d_chosen, strict=True)
        ]
        return (d_q1, d_q2, [a + b for a, b in zip(d_kv, added, strict=True)], following), None

    start = (d_q1, d_q2 + d_more2, d_kv, moving)
    (d_q1, d_q2, d_kv, _), _ = jax.lax.scan(step, start, jnp.arange(1, n))
    d_k, d_v = _turn(d_kv, knobs)
    d_q = jnp.concatenate([d_q1, d_q2], axis=1).astype(q.dtype)
    d_sinks = None
    if sinks_KG is not None:
        d_sinks = -(jnp.exp(sinks_KG - lse) * delta).sum((0, 1))
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), d_sinks, None, None


_ring.defvjp(_forward, _backward)
