"""Qwen3, dense: queries and keys normalised head by head."""

from __future__ import annotations

from typing import Any

from lmx.io.fp8 import join_scales
from lmx.models.config import Decoder
from lmx.models.hf.family import LLAMA, Defaults, Family, llama_fields, write_llama
from lmx.models.hf.fields import merge
from lmx.models.hf.keys import Keys
from lmx.models.hf.qwen2 import qwen_windows, write_windows


def _read(keys: Keys) -> dict[str, Any]:
    windows, bias = qwen_windows(keys), bool(keys.given("attention_bias", False))
    found = llama_fields(keys, Defaults(kv_heads=32, head_dim=128, max_length=32768))
    attention = {"qk_norm": "head", "qkv_bias": bias, "out_bias": bias, "windows": windows}
    return merge(found, {"attention": attention})


def _write(config: Decoder) -> dict[str, Any]:
    return {**write_llama(config), **write_windows(config), "attention_bias": config.attention.qkv_bias}


FAMILY = Family("qwen3", "Qwen3ForCausalLM", _read, _write, LLAMA, quantised={"fp8": join_scales})
