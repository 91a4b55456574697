"""Floating point operations of a training step, from the configuration alone."""

from __future__ import annotations

from lmx.models.config import Decoder
from lmx.models.model import Flops


def attended(length: int, window: int | None) -> float:
    """Keys that a query sees on average over `length` positions, itself included, under causality."""
    reach = min(window or length, length)
    return (reach * (reach + 1) / 2 + (length - reach) * reach) / length


def matrix_parameters(config: Decoder) -> int:
    """Weights that a token is multiplied with: projections, MLP and output head; neither lookups nor scales."""
    width, head = config.d_model, config.head_dim
    attention = width * head * (2 * config.n_heads + 2 * config.n_kv_heads)
    mlp = width * config.mlp.d_ff * (3 if config.mlp.kind == "gated" else 2)
    return config.n_layers * (attention + mlp) + config.vocab_size * width


def decoder_flops(config: Decoder, length: int) -> Flops:
    """A token's share of forward and backward: 6 a matrix weight + 12 n_heads head_dim keys, a layer."""
    matrices = 6.0 * matrix_parameters(config)
    windows = [config.attention.windows[i % len(config.attention.windows)] for i in range(config.n_layers)]
    per_key = 12.0 * config.n_heads * config.head_dim
    causal = matrices + per_key * sum(attended(length, w) for w in windows)
    return Flops(causal=causal, full=matrices + per_key * config.n_layers * length)
