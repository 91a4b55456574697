"""A model as one device of a mesh sees it, and what its forward pass leaves for the backward pass there.

Nothing is computed or allocated: the pass is traced over shapes, so that what is kept is what JAX itself would keep,
under any policy of rematerialisation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmx import params as param_tree
from lmx.config.mesh import Rules
from lmx.layers.kernels import KernelSet
from lmx.layers.names import ATTENTION_CONTEXT, named
from lmx.models.model import Model
from lmx.sharding import ways
from lmx.types import Batch

ROWS = 127
"""Sequences of the traced batch: a prime that no dimension of a model is a multiple of, so that what grows with the
batch is told from what does not."""
LANES, SUBLANES = 128, 8
"""What a TPU pads the last dimension of an array to, and the one before it."""


class Kept(NamedTuple):
    """What one device keeps from the forward pass for the backward pass.

    activations  bytes that grow with the batch
    cast         copies of weights in another dtype, as a part of all parameters: 1.0 where every weight is cast
    largest      (shape, dtype, bytes, how many) of the largest activations: those of one shape, of all layers, together
    """

    activations: int
    cast: float
    largest: list[tuple[str, str, int, int]]


def local_model(config: Any, rules: Rules, sizes: Mapping[str, int]) -> Any:
    """A decoder's configuration with the heads and widths that one device of the mesh holds; others as they are."""
    if not hasattr(config, "n_heads"):
        return config
    cut = lambda n, axis: max(n // ways(sizes, rules, axis), 1)
    mlp = config.mlp.model_copy(update={"d_ff": cut(config.mlp.d_ff, "act_ffn")})
    changes = {
        "n_heads": cut(config.n_heads, "act_heads"),
        "n_kv_heads": cut(config.n_kv_heads, "act_kv_heads"),
        "vocab_size": cut(config.vocab_size, "act_vocab"),
        "mlp": mlp,
    }
    if config.moe is not None:
        shared = config.moe.shared_d_ff
        moe = {"d_ff": cut(config.moe.d_ff, "expert_ffn")}
        moe |= {} if shared is None else {"shared_d_ff": cut(shared, "act_ffn")}
        changes["moe"] = config.moe.model_copy(update=moe)
    return config.model_copy(update=changes)


@jax.custom_vjp
def _fused(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)


def _fused_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple]:
    out = named(_fused(q, k, v), ATTENTION_CONTEXT)
    return out, (q, k, v, out, jnp.zeros(q.shape[:-1], jnp.float32))


def _fused_backward(kept: tuple, cotangent: jax.Array) -> tuple:
    return kept[0], kept[1], kept[2]


_fused.defvjp(_fused_forward, _fused_backward)


def fused_attention(q: jax.Array, k: jax.Array, v: jax.Array, **masks: Any) -> jax.Array:
    """Stands for splash and cuDNN: keeps queries, keys, values, result and the sums of the softmax, no scores."""
    return _fused(q, k, v)


def kept_for_backward(
    model: Model,
    kernels: KernelSet,
    *,
    length: int,
    segmented: bool,
    rows: float,
    param_dtype: str,
    shares: Mapping[str, int],
    tpu: bool,
) -> Kept:
    """What the backward pass of a (micro-)batch of `rows` sequences a device finds.

    `shares`: into how many parts arrays of the residual stream (`residual`) and all others (`length`) are cut along
    the sequence.
    """
    ids = jax.ShapeDtypeStruct((ROWS, length), np.int32)
    more = ids if segmented else None
    batch = Batch(ids, ids, jax.ShapeDtypeStruct((ROWS, length), np.float32), more, more)
    params = param_tree.abstract(model.specs, jnp.dtype(param_dtype))

    def objective(params: Any, batch: Batch) -> tuple[jax.Array, Any]:
        out = model.forward(params, batch.tokens, batch.positions, segments_BT=batch.segments)
        losses = kernels.cross_entropy(
            out.hidden, model.head(params), batch.targets, batch.weights, z_loss=0.0
        )
        return losses.total + sum(v for k, v in out.aux.items() if k.startswith("loss/")), None

    def backward(params: Any, batch: Batch) -> Any:
        return jax.vjp(lambda p: objective(p, batch), params, has_aux=True)[1]

    total, cast, elements = 0.0, 0, param_tree.count(model.specs)
    found: dict[tuple[str, str], list[float]] = {}
    for leaf in jax.tree.leaves(jax.eval_shape(backward, params, batch)):
        if any(n and n % ROWS == 0 for n in leaf.shape):
            cut = shares["residual"] if leaf.shape[-1:] == _width(model) else shares["length"]
            size = _bytes(leaf, tpu) * rows / ROWS / cut
            total += size
            key = (_shown(leaf.shape, rows), leaf.dtype.name)
            found.setdefault(key, []).append(size)
        elif leaf.dtype != jnp.dtype(param_dtype) and jnp.issubdtype(leaf.dtype, jnp.floating):
            cast += math.prod(leaf.shape)
    alike = [(shape, dtype, round(sum(sizes)), len(sizes)) for (shape, dtype), sizes in found.items()]
    largest = sorted(alike, key=lambda item: -item[2])
    return Kept(round(total), min(cast / elements, 1.0), largest[:10])


def _width(model: Model) -> tuple[int, ...]:
    width = getattr(model.config, "d_model", None)
    return () if width is None else (width,)


def _bytes(leaf: Any, tpu: bool) -> int:
    """With the padding of the last dimension that a TPU's tiles bring."""
    if not tpu or leaf.ndim < 2 or leaf.shape[-1] == 1:
        return math.prod(leaf.shape) * leaf.dtype.itemsize
    last = -(-leaf.shape[-1] // LANES) * LANES
    return math.prod(leaf.shape[:-1]) * last * leaf.dtype.itemsize


def tiled_bytes(shape: tuple[int, ...], itemsize: int, *, tpu: bool) -> int:
    """Bytes of an array that lies by itself, as a parameter does; on TPU in the order of dimensions that pads least."""
    whole = math.prod(shape)
    if not tpu or len(shape) < 2 or not whole:
        return whole * itemsize
    padded = lambda n, to: -(-n // to) * to / n
    pairs = ((a, b) for a in range(len(shape)) for b in range(len(shape)) if a != b)
    return round(
        whole * itemsize * min(padded(shape[a], LANES) * padded(shape[b], SUBLANES) for a, b in pairs)
    )


def _shown(shape: tuple[int, ...], rows: float) -> str:
    """The shape with the rows of a device in place of those traced."""
    return "x".join(f"{n // ROWS * rows:g}" if n % ROWS == 0 else str(n) for n in shape)
