"""Llama 1 to 3.2 (and 3.3): `LlamaForCausalLM`."""

from __future__ import annotations

from typing import Any

from lmx.models.config import Decoder
from lmx.models.hf.family import LLAMA, Defaults, Family, expect_types, llama_fields, write_llama
from lmx.models.hf.fields import merge
from lmx.models.hf.keys import Keys


def _read(keys: Keys) -> dict[str, Any]:
    expect_types(keys, keys.take("num_hidden_layers"), [None])
    bias = bool(keys.given("attention_bias", False))
    return merge(
        llama_fields(keys, Defaults()),
        {
            "attention": {"qkv_bias": bias, "out_bias": bias},
            "mlp": {"bias": bool(keys.given("mlp_bias", False))},
        },
    )


def _write(config: Decoder) -> dict[str, Any]:
    return {
        **write_llama(config),
        "attention_bias": config.attention.qkv_bias,
        "mlp_bias": config.mlp.bias,
    }


FAMILY = Family("llama", "LlamaForCausalLM", _read, _write, LLAMA)
