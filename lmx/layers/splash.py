"""Splash attention: JAX's Pallas kernel for TPU, which skips what the mask hides and keeps no scores.

Computes what `lmx.layers.scores` says, for queries and keys of the same tokens; nothing else is supported here:
a cache's keys are another kernel's work. Scores and softmax are float32 on the chip.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmx.layers.names import ATTENTION_CONTEXT

LANES = 128
"""Blocks are multiples of this, and so is the length that the kernel sees."""


class Blocks(NamedTuple):
    """Sizes that the kernel works in; those larger than the sequence become as large as fits.

    query_block, key_block  read at once, forward; `key_block_computed` of the keys are multiplied at a time
    query_block_backward, ..    the same, backward
    fused_backward          one backward pass for all gradients, with partial sums of the queries' gradient for
                            each block of keys, instead of two passes
    """

    query_block: int
    key_block: int
    key_block_computed: int
    query_block_backward: int
    key_block_backward: int
    key_block_computed_backward: int
    fused_backward: bool


def fitting(block: int, length: int) -> int:
    """The largest multiple of `LANES` that divides `length` and is not over `block` (at least `LANES`)."""
    assert length % LANES == 0
    most = max(block // LANES, 1)
    return LANES * max(n for n in range(1, most + 1) if (length // LANES) % n == 0)


@lru_cache(maxsize=64)
def _kernel(
    length: int, n_heads: int, window: int | None, softcap: float | None, blocks: Blocks, interpret: bool
) -> Any:
    """The kernel for one sequence: (q_NTH, k_KSH, v_KSH, segments, sinks_N) -> o_NTH."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    keys, back = fitting(blocks.key_block, length), fitting(blocks.key_block_backward, length)
    queries_back = fitting(blocks.query_block_backward, length)
    apart = not blocks.fused_backward
    sizes = splash.BlockSizes(
        block_q=fitting(blocks.query_block, length),
        block_kv=keys,
        block_kv_compute=fitting(blocks.key_block_computed, keys),
        block_q_dkv=queries_back,
        block_kv_dkv=back,
        block_kv_dkv_compute=fitting(blocks.key_block_computed_backward, back),
        use_fused_bwd_kernel=blocks.fused_backward,
        block_q_dq=queries_back if apart else None,
        block_kv_dq=back if apart else None,
    )
    square = (length, length)
    left = length if window is None else window - 1
    mask = splash.CausalMask(square) if left >= length - 1 else splash.LocalMask(square, (left, 0), 0)
    with jax.ensure_compile_time_eval():  # also called while a program is traced: what is kept must be values
        made = splash.make_splash_mha(
            splash.MultiHeadMask([mask] * n_heads),
            head_shards=1,
            q_seq_shards=1,
            block_sizes=sizes,
            attn_logits_soft_cap=softcap,
            residual_checkpoint_name=ATTENTION_CONTEXT,
            interpret=interpret,
        )
    return jax.tree.map(np.asarray, made)


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    q_segments_BT: jax.Array | None = None,
    k_segments_BS: jax.Array | None = None,
    sinks_N: jax.Array | None = None,
    window: int | None,
    softcap: float | None,
    scale: float,
    blocks: Blocks,
    interpret: bool = False,
) -> jax.Array:
    """As `lmx.layers.scores.dot_product` without positions, T = S. `interpret`: runs anywhere, slowly."""
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    length, n_heads = q_BTNH.shape[1:3]
    assert k_BSKH.shape[1] == length
    padded = -(-length // LANES) * LANES
    scaled = (q_BTNH.astype(jnp.float32) * scale).astype(q_BTNH.dtype)
    # Tokens added at the end lie after all others, so causality hides them.
    heads_first = lambda x: jnp.pad(x, ((0, 0), (0, padded - length), (0, 0), (0, 0))).transpose(0, 2, 1, 3)
    arrays = heads_first(scaled), heads_first(k_BSKH), heads_first(v_BSKH)
    segments = None
    if q_segments_BT is not None:
        assert k_segments_BS is not None
        lengthen = lambda ids: jnp.pad(ids, ((0, 0), (0, padded - length)))
        segments = SegmentIds(lengthen(q_segments_BT), lengthen(k_segments_BS))
    sinks = None if sinks_N is None else sinks_N.astype(jnp.float32)
    kernel = _kernel(padded, n_heads, window, softcap, blocks, interpret)
    o_BNTH = jax.vmap(kernel, in_axes=(0, 0, 0, 0, None))(*arrays, segments, sinks)
    o_BTNH = o_BNTH.transpose(0, 2, 1, 3)[:, :length]
    if q_segments_BT is not None:  # the kernel lets padding see padding
        o_BTNH = jnp.where((q_segments_BT != 0)[:, :, None, None], o_BTNH, 0)
    return o_BTNH
