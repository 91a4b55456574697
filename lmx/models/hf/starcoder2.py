"""StarCoder 2: layer norms and biases, rotary positions, a window on every layer."""

from __future__ import annotations

from typing import Any

from lmx.models.config import Decoder
from lmx.models.hf.declare import one
from lmx.models.hf.family import (
    ATTENTION,
    OUTSIDE,
    PRE_NORMS,
    Defaults,
    Family,
    expect_types,
    fields,
    one_rope,
    sizes,
    window_of,
    write_llama,
)
from lmx.models.hf.keys import Keys

_DEFAULTS = Defaults(kv_heads=2, tied=True, max_length=4096)


def _read(keys: Keys) -> dict[str, Any]:
    keys.expect("norm_type", "layer_norm")
    keys.expect("mlp_type", "default")
    window = keys.take("sliding_window", None)
    expect_types(keys, keys.take("num_hidden_layers"), [window])
    bias = bool(keys.given("use_bias", True))
    return fields(
        **sizes(keys, _DEFAULTS),
        norm={"kind": "layer_norm", "epsilon": keys.take("norm_epsilon", 1e-5), "bias": True},
        position=one_rope(keys, _DEFAULTS),
        attention={"qkv_bias": bias, "out_bias": bias, "windows": [window]},
        mlp={
            "d_ff": keys.take("intermediate_size"),
            "kind": "plain",
            "activation": keys.activation("hidden_act", "gelu_pytorch_tanh"),
            "bias": bias,
        },
    )


def _write(config: Decoder) -> dict[str, Any]:
    told = write_llama(config)
    return {
        **{name: value for name, value in told.items() if name != "rms_norm_eps"},
        "norm_epsilon": config.norm.epsilon,
        "use_bias": config.mlp.bias,
        "sliding_window": window_of(config),
    }


_MLP = "model.layers.{l}.mlp."
_TENSORS = (
    *OUTSIDE,
    *ATTENTION,
    *PRE_NORMS,
    one(f"{_MLP}c_fc.weight", "mlp.up", "f d -> d f"),
    one(f"{_MLP}c_fc.bias", "mlp.up_bias", "f -> f"),
    one(f"{_MLP}c_proj.weight", "mlp.down", "d f -> f d"),
    one(f"{_MLP}c_proj.bias", "mlp.down_bias", "d -> d"),
)

FAMILY = Family("starcoder2", "Starcoder2ForCausalLM", _read, _write, _TENSORS)
