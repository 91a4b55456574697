"""gpt-oss: sinks, windows on every other layer, biased experts with a clamped gate."""

from __future__ import annotations

from typing import Any

from lmx.io.mxfp4 import join_blocks
from lmx.models.config import Decoder
from lmx.models.hf.declare import one, woven
from lmx.models.hf.family import (
    ATTENTION,
    OUTSIDE,
    PRE_NORMS,
    Defaults,
    Family,
    fields,
    layer_types,
    one_rope,
    sizes,
    types_of,
    window_of,
    windows_of,
    write_llama,
)
from lmx.models.hf.keys import Keys
from lmx.models.hf.moe import mixture, router_of

_MLP = "model.layers.{l}.mlp."
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""That of the published models, which transformers takes where config.json says nothing of it."""


def _read(keys: Keys) -> dict[str, Any]:
    common = sizes(keys, Defaults(kv_heads=8, head_dim=64))
    n, bias = common["n_layers"], bool(keys.given("attention_bias", True))
    types = layer_types(keys, n, ["full_attention" if i % 2 else "sliding_attention" for i in range(n)])
    keys.ignore(
        "initial_context_length", "experts_per_token", "hidden_act"
    )  # the activation is always its own
    keys.expect("swiglu_alpha", 1.702)  # the slope of quick_gelu
    if keys.raw.get("rope_parameters") is None:
        keys.assume("rope_scaling", _YARN)
    d_ff = keys.take("intermediate_size")
    moe = mixture(
        n_experts=keys.take("num_local_experts"),
        top_k=keys.take("num_experts_per_tok"),
        d_ff=d_ff,
        router={"bias": "logits"},
    )
    return fields(
        **common,
        norm={"epsilon": keys.take("rms_norm_eps", 1e-5), "scale_in": "float32"},
        position=one_rope(keys, Defaults(theta=150000.0, max_length=131072)),
        attention={
            "windows": windows_of(types, keys.take("sliding_window", 128)),
            "qkv_bias": bias,
            "out_bias": bias,
            "sinks": True,
        },
        mlp={
            "d_ff": d_ff,
            "activation": "quick_gelu",
            "bias": True,
            "limit": float(keys.take("swiglu_limit", 7.0)),
        },
        moe=moe,
    )


def _write(config: Decoder) -> dict[str, Any]:
    assert config.moe is not None
    written = write_llama(config)
    if written["rope_scaling"] is None:  # transformers would take null for the published models' YaRN
        written["rope_scaling"] = {"rope_type": "default"}
    return written | {
        "hidden_act": "silu",
        "intermediate_size": config.moe.d_ff,
        "attention_bias": config.attention.qkv_bias,
        "layer_types": types_of(config),
        "sliding_window": window_of(config),
        "swiglu_limit": config.mlp.limit,
        "num_local_experts": config.moe.n_experts,
        "num_experts_per_tok": config.moe.top_k,
    }


FAMILY = Family(
    "gpt_oss",
    "GptOssForCausalLM",
    _read,
    _write,
    (
        *OUTSIDE,
        *ATTENTION,
        *PRE_NORMS,
        one("model.layers.{l}.self_attn.sinks", "attention.sinks", "n -> n"),
        *router_of(f"{_MLP}router"),
        one(f"{_MLP}router.bias", "moe.router.bias", "e -> e"),
        woven(
            f"{_MLP}experts.gate_up_proj",
            ("moe.experts.gate", "e d (f 2:0) -> e d f"),
            ("moe.experts.up", "e d (f 2:1) -> e d f"),
        ),
        woven(
            f"{_MLP}experts.gate_up_proj_bias",
            ("moe.experts.gate_bias", "e (f 2:0) -> e f"),
            ("moe.experts.up_bias", "e (f 2:1) -> e f"),
        ),
        one(f"{_MLP}experts.down_proj", "moe.experts.down", "e f d -> e f d"),
        one(f"{_MLP}experts.down_proj_bias", "moe.experts.down_bias", "e d -> e d"),
    ),
    quantised={"mxfp4": join_blocks},
)
