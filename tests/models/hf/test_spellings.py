"""What a `config.json` says twice, or in more words than it needs: read where it agrees, refused where it does not."""

from __future__ import annotations

import re

import pytest

from lmx.config.errors import RequestError
from lmx.models.hf.families import FAMILIES
from lmx.models.hf.read import parse_config

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
    "max_position_embeddings": 128,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
FULL, SLIDING = "full_attention", "sliding_attention"


def read(family="llama", **keys):
    return parse_config({**SIZES, "model_type": family, **keys}, "file").config


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 5e3, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        {"rope_theta": 5e3, "rope_scaling": LINEAR, "rope_parameters": {**LINEAR, "rope_theta": 1e4}},
        {"rope_theta": 5e3, "rope_scaling": {**LINEAR, "rope_theta": 1e4}},
        {"rope_scaling": LINEAR, "rope_parameters": {**LINEAR, "factor": 2.0}},
        {"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default"}},
        {"rope_scaling": LINEAR, "rope_parameters": {**LINEAR, "rope_theta": 5e5}},
    ],
)
def test_ropes_that_disagree(keys):
    with pytest.raises(RequestError, match="disagree"):
        read(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 5e3, "rope_parameters": {**LINEAR, "rope_theta": 5e3}},
        {"rope_theta": 5e3, "rope_parameters": LINEAR, "rope_scaling": None},
        {"rope_theta": 5e3, "rope_scaling": {"type": "linear", "factor": 4}, "rope_parameters": LINEAR},
    ],
)
def test_ropes_that_agree(keys):
    assert read(**keys) == read(rope_theta=5e3, rope_scaling=LINEAR)


def test_ropes_by_layer_type_that_agree_or_not():
    nested = {
        FULL: {"rope_type": "default", "rope_theta": 1e6},
        SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    }
    sizes = {"family": "gemma3_text", "head_dim": 8, "sliding_window": 8, "layer_types": [SLIDING, FULL]}
    config = read(**sizes, rope_parameters=nested)
    assert read(**sizes, rope_parameters=nested, rope_theta=1e6, rope_local_base_freq=1e4) == config
    with pytest.raises(RequestError, match="disagree"):
        read(**sizes, rope_parameters=nested, rope_theta=5e5)
    with pytest.raises(RequestError, match="rope_local_base_freq"):
        read(**sizes, rope_parameters=nested, rope_local_base_freq=5e3)


@pytest.mark.parametrize("family", ["llama", "mistral", "mixtral", "phi3", "starcoder2", "qwen2", "qwen3"])
def test_layer_types_that_say_what_is_built(family):
    sizes = {"family": family} | ({} if family == "llama" else {"sliding_window": None})
    assert read(**sizes, layer_types=[FULL, FULL]) == read(**sizes)
    with pytest.raises(RequestError, match="layer_types"):
        read(**sizes, layer_types=[FULL, SLIDING])
    with pytest.raises(RequestError, match="layer_types"):
        read(**sizes, layer_types=[FULL])


def test_layer_types_that_agree_with_the_window():
    assert read("mistral", sliding_window=8, layer_types=[SLIDING] * 2) == read("mistral", sliding_window=8)
    with pytest.raises(RequestError, match="layer_types"):
        read("mistral", sliding_window=8, layer_types=[SLIDING, FULL])


def test_layers_that_predict_further_tokens_are_passed_over():
    def passed(**keys):
        patterns = FAMILIES["deepseek_v3"].ignored_of({**SIZES, **keys})
        return [i for i in range(5) if any(re.fullmatch(p, f"model.layers.{i}.mlp.x") for p in patterns)]

    assert passed() == []
    assert passed(num_nextn_predict_layers=1) == [2]
    assert passed(num_nextn_predict_layers=2) == [2, 3]
