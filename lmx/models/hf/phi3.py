"""Phi-3 (and Phi-4 of the same shape): q|k|v in one tensor, gate|up in another; LongRoPE."""

from __future__ import annotations

from typing import Any

from lmx.models.config import Decoder
from lmx.models.hf.declare import one, packed
from lmx.models.hf.family import (
    OUT,
    OUTSIDE,
    PRE_NORMS,
    Defaults,
    Family,
    expect_types,
    llama_fields,
    window_of,
    write_llama,
)
from lmx.models.hf.fields import merge
from lmx.models.hf.keys import Keys
from lmx.models.position import LongRopeScaling


def _read(keys: Keys) -> dict[str, Any]:
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        keys.expect(name, False)
    for name in ("full_attn_mod", "interpolate_factor"):
        keys.expect(name, 1)
    keys.ignore("original_max_position_embeddings")
    window = keys.take("sliding_window", None)
    expect_types(keys, keys.take("num_hidden_layers"), [window])
    found = llama_fields(keys, Defaults(max_length=4096, norm_epsilon=1e-5, partial_rope=True))
    return merge(found, {"attention": {"windows": [window]}})


def _write(config: Decoder) -> dict[str, Any]:
    told: dict[str, Any] = {**write_llama(config), "sliding_window": window_of(config)}
    told.pop("head_dim")
    for rope in config.position.ropes.values():
        if isinstance(rope.scaling, LongRopeScaling):
            told["original_max_position_embeddings"] = rope.scaling.original_length
    return told


_LAYER = "model.layers.{l}."
_TENSORS = (
    *OUTSIDE,
    *OUT,
    *PRE_NORMS,
    packed(
        f"{_LAYER}self_attn.qkv_proj.weight",
        0,
        ("attention.query", "(n h) d -> d n h"),
        ("attention.key", "(k h) d -> d k h"),
        ("attention.value", "(k h) d -> d k h"),
    ),
    packed(f"{_LAYER}mlp.gate_up_proj.weight", 0, ("mlp.gate", "f d -> d f"), ("mlp.up", "f d -> d f")),
    one(f"{_LAYER}mlp.down_proj.weight", "mlp.down", "d f -> f d"),
)

FAMILY = Family("phi3", "Phi3ForCausalLM", _read, _write, _TENSORS)
