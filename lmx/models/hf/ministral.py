"""Ministral: a Mistral whose layers each have a window or none, as `layer_types` says."""

from __future__ import annotations

from typing import Any

from lmx.models.config import Decoder
from lmx.models.hf.family import (
    LLAMA,
    Defaults,
    Family,
    layer_types,
    llama_fields,
    types_of,
    window_of,
    windows_of,
    write_llama,
)
from lmx.models.hf.fields import merge
from lmx.models.hf.keys import Keys


def _read(keys: Keys) -> dict[str, Any]:
    window = keys.take("sliding_window", 4096)
    n = keys.take("num_hidden_layers")
    types = layer_types(keys, n, ["full_attention" if window is None else "sliding_attention"] * n)
    found = llama_fields(keys, Defaults(kv_heads=8, max_length=131072))
    return merge(found, {"attention": {"windows": windows_of(types, window)}})


def _write(config: Decoder) -> dict[str, Any]:
    return {**write_llama(config), "layer_types": types_of(config), "sliding_window": window_of(config)}


FAMILY = Family("ministral", "MinistralForCausalLM", _read, _write, LLAMA)
