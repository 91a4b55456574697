"""config.json of HuggingFace checkpoints: the keys of each family, damaged."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.models.hf import FAMILIES, read_config
from tests.fuzz.support import answer, cases, documents_or_bytes
from tests.support import model_config

OPTIONS = {
    "deepseek_v2": "deepseek_v2_lite",
    "deepseek_v3": "deepseek_v3",
    "gemma": "gemma_2b",
    "gemma2": "gemma2_2b",
    "gemma3_text": "gemma3_1b",
    "gpt2": "gpt2",
    "gpt_bigcode": "starcoder_1b",
    "gpt_oss": "gpt_oss_20b",
    "llama": "llama3p1_8b",
    "llama4_text": "llama4_scout",
    "ministral": "ministral_8b",
    "mistral": "mistral_7b",
    "mixtral": "mixtral_8x7b",
    "olmo2": "olmo2_7b",
    "olmo3": "olmo3_7b",
    "phi3": "phi3p5_mini",
    "qwen2": "qwen2_0p5b",
    "qwen3": "qwen3_0p6b",
    "qwen3_moe": "qwen3_30b_a3b",
    "smollm3": "smollm3_3b",
    "starcoder2": "starcoder2_3b",
}
SCALINGS = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
]


@cache
def keys(family: str) -> dict:
    """A sound config.json of a family, with keys that most files have."""
    config = model_config(OPTIONS[family])
    told = {"max_position_embeddings": 4096, "rope_theta": 1e4, "bos_token_id": 1, "torch_dtype": "bfloat16"}
    told = {} if family in ("gpt2", "gpt_bigcode") else told
    return told | {"model_type": family} | FAMILIES[family].write(config)


def test_every_family_is_here_and_sound(tmp_path):
    assert set(OPTIONS) == set(FAMILIES)


@pytest.mark.parametrize("family", sorted(OPTIONS))
def test_damaged_config_json(family, tmp_path):
    file = tmp_path / "config.json"

    @given(st.data())
    @cases(0.25)
    def check(data):
        whole = keys(family) | data.draw(st.sampled_from([{}] * 4 + [{"rope_scaling": s} for s in SCALINGS]))
        file.write_bytes(data.draw(documents_or_bytes(whole)))
        answer(lambda: read_config(tmp_path))

    check()
