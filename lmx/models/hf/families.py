"""The families, by `model_type`; where several could hold a model, the first is written."""

from __future__ import annotations

from lmx.models.hf import (
    deepseek_v2,
    deepseek_v3,
    gemma,
    gemma2,
    gemma3,
    gpt2,
    gpt_bigcode,
    gpt_oss,
    llama,
    llama4,
    ministral,
    mistral,
    mixtral,
    olmo2,
    olmo3,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm3,
    starcoder2,
)
from lmx.models.hf.family import Family

_MODULES = (
    llama,
    mistral,
    ministral,
    qwen2,
    qwen3,
    gpt2,
    gpt_bigcode,
    starcoder2,
    olmo2,
    olmo3,
    gemma,
    gemma2,
    gemma3,
    smollm3,
    phi3,
    mixtral,
    qwen3_moe,
    deepseek_v2,
    deepseek_v3,
    llama4,
    gpt_oss,
)

FAMILIES: dict[str, Family] = {module.FAMILY.model_type: module.FAMILY for module in _MODULES}
