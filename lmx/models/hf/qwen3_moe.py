"""Qwen3-MoE: Qwen3 with mixtures on all layers, or on some."""

from __future__ import annotations

from typing import Any

from lmx.io.fp8 import join_scales
from lmx.models.config import Decoder
from lmx.models.hf.family import LLAMA, Defaults, Family, llama_fields, write_llama
from lmx.models.hf.fields import merge
from lmx.models.hf.keys import Keys
from lmx.models.hf.moe import experts_of, mixture, moe_layers, pattern_of, router_of
from lmx.models.hf.qwen2 import qwen_windows, write_windows

_MOE = "model.layers.{l}.mlp."


def _read(keys: Keys) -> dict[str, Any]:
    windows, bias = qwen_windows(keys), bool(keys.given("attention_bias", False))
    found = llama_fields(keys, Defaults(kv_heads=4, max_length=32768))
    step, plain = keys.given("decoder_sparse_step", 1), set(keys.given("mlp_only_layers", []))
    layers = [i for i in range(found["n_layers"]) if i not in plain and (i + 1) % step == 0]
    n_experts = keys.take("num_experts", None) or keys.take("num_local_experts", 128)
    keys.ignore("num_local_experts")
    moe = mixture(
        n_experts=n_experts,
        top_k=keys.take("num_experts_per_tok", 8),
        d_ff=keys.take("moe_intermediate_size", 768),
        router={"normalise": bool(keys.given("norm_topk_prob", False))},
        pattern=pattern_of(layers, found["n_layers"]),
    )
    attention = {"qk_norm": "head", "qkv_bias": bias, "out_bias": bias, "windows": windows}
    return merge(found, {"attention": attention, "moe": moe})


def _write(config: Decoder) -> dict[str, Any]:
    assert config.moe is not None
    return {
        **write_llama(config),
        **write_windows(config),
        "attention_bias": config.attention.qkv_bias,
        "num_experts": config.moe.n_experts,
        "num_experts_per_tok": config.moe.top_k,
        "moe_intermediate_size": config.moe.d_ff,
        "norm_topk_prob": config.moe.router.normalise,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i in range(config.n_layers) if i not in moe_layers(config)],
    }


FAMILY = Family(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    _read,
    _write,
    (*LLAMA, *router_of(f"{_MOE}gate"), *experts_of(_MOE + "experts.{e}.")),
    quantised={"fp8": join_scales},
)
