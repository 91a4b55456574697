"""DeepSeek V3 in 8-bit floats, as published: the same model as with the values written out."""

from __future__ import annotations

import json

import jax
import ml_dtypes
import numpy as np

from lmx.io.safetensors import Written, write_tensors
from lmx.models.hf import read_config
from lmx.models.hf.tensors import bind
from tests.models.hf.test_export import load
from tests.support import build_model

CONFIG = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 20,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 12,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "vocab_size": 40,
    "num_nextn_predict_layers": 1,
}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}


def write(folder, arrays, **more):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | more))
    tensors = [Written(name, a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()]
    write_tensors(folder, tensors, shard_bytes=1 << 30)


def test_blocks_and_factors_are_the_values_written_out(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "plain", {})
    found = read_config(tmp_path / "plain")
    plain, packed = {}, {}
    for bound in bind(found.family.tensors_of(found.config), found.config, build_model(found.config).specs):
        for name, _ in bound.names():
            value = rng.normal(0, 0.2, bound.shape).astype(np.float32)
            if "_proj" in name and name.endswith(".weight"):
                stored = value.astype(ml_dtypes.float8_e4m3fn)
                factors = rng.uniform(0.5, 2, [-(-n // 16) for n in value.shape]).astype(np.float32)
                packed |= {name: stored, f"{name}_scale_inv": factors}
                blocks = np.repeat(np.repeat(factors, 16, 0), 16, 1)[: value.shape[0], : value.shape[1]]
                plain[name] = stored.astype(np.float32) * blocks
            else:
                plain[name] = packed[name] = value
    assert any("experts.3" in name for name in packed)
    packed["model.layers.2.eh_proj.weight"] = np.zeros((4, 4), np.float32)  # predicts further tokens
    write(tmp_path / "plain", plain)
    write(tmp_path / "packed", packed, quantization_config=FP8)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "plain")[2], load(tmp_path / "packed")[2])
