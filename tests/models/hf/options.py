"""Options of families that their published sizes do not have: what config.json says, over `SIZES` or `GPT2_SIZES`."""

from __future__ import annotations

from typing import Any

SIZES = {
    "hidden_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 56,
    "vocab_size": 61,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2_SIZES = {
    "n_embd": 40,
    "n_layer": 3,
    "n_head": 4,
    "vocab_size": 61,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
TWO_OF_FOUR = {"num_local_experts": 4, "num_experts_per_tok": 2}
DEEPSEEK = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 20,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
    "routed_scaling_factor": 1.7,
    "n_group": 4,
    "topk_group": 2,
}
GPT_OSS = {"model_type": "gpt_oss", "head_dim": 12, "sliding_window": 8, **TWO_OF_FOUR}

OPTIONS: dict[str, dict[str, Any]] = {
    "gpt2_relu_inner": {"model_type": "gpt2", "n_inner": 50, "activation_function": "relu"},
    "gpt2_noscale_untied": {
        "model_type": "gpt2",
        "scale_attn_weights": False,
        "tie_word_embeddings": False,
        "activation_function": "gelu",
    },
    "gpt2_invlayer": {"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True},
    "bigcode_mha": {"model_type": "gpt_bigcode", "multi_query": False, "n_inner": 70},
    "starcoder2_nobias": {
        "model_type": "starcoder2",
        "use_bias": False,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "norm_epsilon": 0.0001,
    },
    "starcoder2_linear": {
        "model_type": "starcoder2",
        "sliding_window": 8,
        "rope_theta": 500000.0,
        "rope_scaling": {"type": "linear", "factor": 3.0},
    },
    "llama_bias": {
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 12,
        "hidden_act": "gelu",
    },
    "llama_dynamic": {
        "model_type": "llama",
        "max_position_embeddings": 24,
        "rope_scaling": {"type": "dynamic", "factor": 4.0},
    },
    "llama_yarn": {
        "model_type": "llama",
        "rope_scaling": YARN,
    },
    "llama_yarn_att": {
        "model_type": "llama",
        "rope_scaling": {
            **YARN,
            "attention_factor": 1.3,
            "beta_fast": 16,
            "beta_slow": 2,
        },
    },
    "llama_yarn_mscale": {
        "model_type": "llama",
        "rope_scaling": {
            **YARN,
            "mscale": 0.7,
            "mscale_all_dim": 1.0,
        },
    },
    "llama_longrope": {
        "model_type": "llama",
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4],
            "long_factor": [2.0, 2.3, 2.6, 2.9, 3.2],
            "original_max_position_embeddings": 32,
            "factor": 2.0,
        },
    },
    "mistral_yarn": {
        "model_type": "mistral",
        "head_dim": 12,
        "sliding_window": 7,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    },
    "ministral_types": {
        "model_type": "ministral",
        "head_dim": 12,
        "sliding_window": 6,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "rope_theta": 100000000.0,
    },
    "mixtral_win": {
        "model_type": "mixtral",
        "sliding_window": 9,
        "head_dim": 12,
        "num_local_experts": 3,
        "num_experts_per_tok": 1,
    },
    "qwen2_win": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 2,
    },
    "qwen3_bias_win": {
        "model_type": "qwen3",
        "attention_bias": True,
        "head_dim": 12,
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen3moe_only": {
        "model_type": "qwen3_moe",
        "attention_bias": True,
        "head_dim": 12,
        "moe_intermediate_size": 24,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "mlp_only_layers": [1],
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
    },
    "olmo2_gqa_bias": {
        "model_type": "olmo2",
        "max_position_embeddings": 24,
        "attention_bias": True,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    },
    "olmo3_yarn": {
        "model_type": "olmo3",
        "sliding_window": 8,
        "rope_theta": 500000,
        "rope_scaling": {
            **YARN,
            "attention_factor": 1.2,
            "beta_fast": 32,
            "beta_slow": 1,
        },
    },
    "gemma_bias": {"model_type": "gemma", "head_dim": 16, "attention_bias": True},
    "gemma2_nocap": {
        "model_type": "gemma2",
        "head_dim": 12,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "sliding_window": 8,
        "attention_bias": True,
    },
    "gemma3_scal": {
        "model_type": "gemma3_text",
        "head_dim": 12,
        "query_pre_attn_scalar": 24,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 5000,
        "final_logit_softcapping": 9.0,
    },
    "dsv2_full": {
        **DEEPSEEK,
        "model_type": "deepseek_v2",
        "topk_method": "group_limited_greedy",
        "attention_bias": True,
        "rope_scaling": None,
    },
    "dsv2_yarn": {
        **DEEPSEEK,
        "model_type": "deepseek_v2",
        "q_lora_rank": None,
        "topk_method": "greedy",
        "norm_topk_prob": False,
        "rope_scaling": {
            "type": "yarn",
            "factor": 4,
            "original_max_position_embeddings": 16,
            "mscale": 0.707,
            "mscale_all_dim": 0.5,
            "beta_fast": 32,
            "beta_slow": 1,
        },
    },
    "dsv3_noq_half": {
        **DEEPSEEK,
        "model_type": "deepseek_v3",
        "n_shared_experts": 1,
        "q_lora_rank": None,
        "n_group": 1,
        "topk_group": 1,
        "rope_interleave": False,
        "norm_topk_prob": False,
    },
    "dsv3_bias": {
        **DEEPSEEK,
        "model_type": "deepseek_v3",
        "attention_bias": True,
        "rope_scaling": {
            "type": "yarn",
            "factor": 4,
            "original_max_position_embeddings": 16,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    },
    "llama4_opts": {
        "model_type": "llama4_text",
        "head_dim": 10,
        "intermediate_size_mlp": 70,
        "attention_bias": True,
        "use_qk_norm": False,
        "moe_layers": [0, 2],
        **TWO_OF_FOUR,
        "attn_temperature_tuning": False,
        "attention_chunk_size": 16,
        "no_rope_layers": [1, 0, 1, 1],
    },
    "llama4_rope": {
        "model_type": "llama4_text",
        "head_dim": 10,
        "intermediate_size_mlp": 70,
        "interleave_moe_layer_step": 1,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "attn_temperature_tuning": True,
        "floor_scale": 8,
        "attn_scale": 0.3,
        "attention_chunk_size": 16,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        "rope_theta": 500000.0,
    },
    "gptoss_norope": {
        **GPT_OSS,
        "rope_scaling": {"rope_type": "default"},
        "rope_theta": 10000.0,
        "attention_bias": False,
    },
    "gptoss_none": {**GPT_OSS, "rope_scaling": None},
    "phi3_partial": {
        "model_type": "phi3",
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": True,
        "sliding_window": None,
    },
    "phi3_long_partial": {
        "model_type": "phi3",
        "partial_rotary_factor": 0.8,
        "original_max_position_embeddings": 24,
        "sliding_window": 50,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [1.0, 2.1, 3.2, 4.3],
        },
    },
    "smollm3_opts": {
        "model_type": "smollm3",
        "no_rope_layer_interval": 2,
        "use_sliding_window": True,
        "sliding_window": 8,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
    },
}
"""By a name; the first part is the family."""

CROSSING = {"llama_dynamic": 24, "phi3_long_partial": 24}
"""Those whose rope goes by the length of a sequence, and up to which length it is the plain one."""


def config_of(name: str) -> dict[str, Any]:
    """The config.json of a case."""
    told = OPTIONS[name]
    return (GPT2_SIZES if told["model_type"] in ("gpt2", "gpt_bigcode") else SIZES) | told
