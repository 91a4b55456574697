"""Mistral: a Llama with a window on every layer, or none."""

from __future__ import annotations

from typing import Any

from lmx.models.config import Decoder
from lmx.models.hf.family import LLAMA, Defaults, Family, expect_types, llama_fields, window_of, write_llama
from lmx.models.hf.fields import merge
from lmx.models.hf.keys import Keys


def _read(keys: Keys) -> dict[str, Any]:
    window = keys.take("sliding_window", 4096)
    expect_types(keys, keys.take("num_hidden_layers"), [window])
    found = llama_fields(keys, Defaults(kv_heads=8, max_length=131072))
    return merge(found, {"attention": {"windows": [window]}})


def _write(config: Decoder) -> dict[str, Any]:
    return {**write_llama(config), "sliding_window": window_of(config)}


FAMILY = Family("mistral", "MistralForCausalLM", _read, _write, LLAMA)
