"""cuDNN's fused attention on NVIDIA GPUs, through `jax.nn.dot_product_attention`."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    q_segments_BT: jax.Array | None = None,
    k_segments_BS: jax.Array | None = None,
    window: int | None,
    scale: float,
) -> jax.Array:
    """As `lmx.layers.scores.dot_product` without positions, soft-cap and sinks, in bfloat16 or float16.

    Documents of a row are told apart by a mask of [B, 1, T, S] in memory, which the kernel reads as a bias.
    """
    seen = None
    if q_segments_BT is not None:
        assert k_segments_BS is not None
        # Padding sees padding, so that no row of scores is without any; its outputs are cleared below.
        seen = (q_segments_BT[:, :, None] == k_segments_BS[:, None, :])[:, None]
    o_BTNH = jax.nn.dot_product_attention(
        q_BTNH,
        k_BSKH,
        v_BSKH,
        mask=seen,
        scale=scale,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )
    if q_segments_BT is not None:
        o_BTNH = jnp.where((q_segments_BT != 0)[:, :, None, None], o_BTNH, 0)
    return o_BTNH
