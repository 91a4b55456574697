"""What DeepSeek V2 and V3 share: latent attention, a dense start, shared experts, groups."""

from __future__ import annotations

import math
from typing import Any

from lmx.models.config import Decoder
from lmx.models.hf.declare import one, packed
from lmx.models.hf.family import (
    MLP,
    OUT,
    OUTSIDE,
    PRE_NORMS,
    Defaults,
    fields,
    mlp_tensors,
    norm,
    one_rope,
    sizes,
    write_llama,
)
from lmx.models.hf.keys import Keys
from lmx.models.hf.moe import experts_of, mixture, router_of

_ATTENTION, _MOE = "model.layers.{l}.self_attn.", "model.layers.{l}.mlp."
_EPSILON = 1e-6  # of the compressed vectors' norms, whatever rms_norm_eps says

TENSORS = (
    *OUTSIDE,
    *PRE_NORMS,
    one(f"{_ATTENTION}q_proj.weight", "attention.query", "(n h) d -> d n h"),
    one(f"{_ATTENTION}q_a_proj.weight", "attention.query_down", "r d -> d r"),
    one(f"{_ATTENTION}q_a_proj.bias", "attention.query_down_bias", "r -> r"),
    *norm(f"{_ATTENTION}q_a_layernorm", "attention.query_norm"),
    one(f"{_ATTENTION}q_b_proj.weight", "attention.query", "(n h) r -> r n h"),
    packed(
        f"{_ATTENTION}kv_a_proj_with_mqa.weight",
        0,
        ("attention.latent_down", "r d -> d r"),
        ("attention.key_rope", "h d -> d h"),
    ),
    packed(
        f"{_ATTENTION}kv_a_proj_with_mqa.bias",
        0,
        ("attention.latent_down_bias", "r -> r"),
        ("attention.key_rope_bias", "h -> h"),
    ),
    *norm(f"{_ATTENTION}kv_a_layernorm", "attention.latent_norm"),
    one(f"{_ATTENTION}kv_b_proj.weight", "attention.key_value", "(n h) r -> r n h"),
    *OUT,
    *MLP,
    *router_of(f"{_MOE}gate"),
    one(f"{_MOE}gate.e_score_correction_bias", "moe.router.choice_bias", "e -> e"),
    *experts_of(_MOE + "experts.{e}."),
    *mlp_tensors(f"{_MOE}shared_experts.", "moe.shared"),
)


def tensors_of(config: Decoder):
    """Queries come from the compressed vector, or straight from the residual stream."""
    compressed = config.attention.latent is not None and config.attention.latent.query_rank is not None
    unused = "q_proj.weight" if compressed else "q_b_proj.weight"
    return tuple(t for t in TENSORS if not t.name.endswith(f"self_attn.{unused}"))


def _growth(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def deepseek_fields(keys: Keys, router: dict[str, Any], *, layout: str) -> dict[str, Any]:
    """The fields of either; `router` is what their routers differ in."""
    rope_dim, plain = keys.take("qk_rope_head_dim", 64), keys.take("qk_nope_head_dim", 128)
    keys.ignore("qk_head_dim", "ep_size", "aux_loss_alpha", "seq_aux", "num_nextn_predict_layers")
    keys.expect("moe_layer_freq", 1)
    told = keys.raw.get("rope_parameters") or keys.raw.get("rope_scaling") or {}
    of_all = told.get("mscale_all_dim") or 0
    if of_all and "factor" not in told:
        keys.refuse("rope_scaling", told)
    scale = (plain + rope_dim) ** -0.5 * (_growth(told["factor"], of_all) ** 2 if of_all else 1.0)
    common = sizes(keys, Defaults())
    shared, d_ff = keys.given("n_shared_experts", 0), keys.take("moe_intermediate_size")
    n_layers, dense = common["n_layers"], keys.take("first_k_dense_replace", 0)
    bias = bool(keys.given("attention_bias", False))
    moe = mixture(
        n_experts=keys.take("n_routed_experts"),
        top_k=keys.take("num_experts_per_tok"),
        d_ff=d_ff,
        shared_d_ff=shared * d_ff or None,
        first_dense=min(dense, n_layers),
        router=router | {"scale": float(keys.take("routed_scaling_factor", 1.0))},
    )
    return fields(
        **common | {"head_dim": plain + rope_dim, "n_kv_heads": common["n_heads"]},
        norm={"epsilon": keys.take("rms_norm_eps", 1e-6)},
        position=one_rope(keys, Defaults(max_length=2048), layout),
        attention={
            "qkv_bias": bias,
            "out_bias": bias,
            "scale": scale,
            "latent": {
                "query_rank": keys.take("q_lora_rank", None),
                "key_value_rank": keys.take("kv_lora_rank"),
                "rope_dim": rope_dim,
                "value_dim": keys.take("v_head_dim"),
                "epsilon": _EPSILON,
            },
        },
        mlp={"d_ff": keys.take("intermediate_size"), "activation": keys.activation("hidden_act")},
        moe=moe,
    )


def groups(keys: Keys, score: str) -> dict[str, Any] | None:
    """`moe.router.groups`, or None where every group is open."""
    n, chosen = keys.given("n_group", 1), keys.given("topk_group", 1)
    return None if n == chosen else {"n": n, "chosen": chosen, "score": score}


def write_deepseek(config: Decoder) -> dict[str, Any]:
    """The keys that `deepseek_fields` reads."""
    latent, moe = config.attention.latent, config.moe
    assert latent is not None
    assert moe is not None
    limited = moe.router.groups
    keys = write_llama(config) | {
        "head_dim": latent.rope_dim,
        "q_lora_rank": latent.query_rank,
        "kv_lora_rank": latent.key_value_rank,
        "qk_rope_head_dim": latent.rope_dim,
        "qk_nope_head_dim": config.head_dim - latent.rope_dim,
        "v_head_dim": latent.value_dim,
        "attention_bias": config.attention.qkv_bias,
        "moe_intermediate_size": moe.d_ff,
        "n_routed_experts": moe.n_experts,
        "num_experts_per_tok": moe.top_k,
        "n_shared_experts": (moe.shared_d_ff or 0) // moe.d_ff,
        "first_k_dense_replace": moe.layers(config.n_layers).count("dense"),
        "routed_scaling_factor": moe.router.scale,
        "n_group": limited.n if limited else 1,
        "topk_group": limited.chosen if limited else 1,
    }
    rope = keys.get("rope_scaling") or {}
    if rope.get("rope_type") == "yarn" and config.attention.scale is not None:
        grown = math.sqrt(config.attention.scale * config.head_dim**0.5)
        rope["mscale_all_dim"] = rope["mscale"] = round((grown - 1) / (0.1 * math.log(rope["factor"])), 6)
    return keys
