"""Gemma 1: (1 + w) norms in float32, embeddings times the root of the width, tied."""

from __future__ import annotations

from typing import Any

from lmx.config.errors import RequestError
from lmx.config.foreign import quoted
from lmx.models.config import Decoder
from lmx.models.hf.family import LLAMA, Defaults, Family, fields, one_rope, sizes, write_llama
from lmx.models.hf.fields import merge
from lmx.models.hf.keys import Keys

DEFAULTS = Defaults(kv_heads=16, head_dim=256, tied=True, max_length=8192)


def gemma_fields(
    keys: Keys, defaults: Defaults, *, activation: str, position: dict[str, Any]
) -> dict[str, Any]:
    """What the three Gemmas share."""
    bias = bool(keys.given("attention_bias", False))
    return fields(
        **sizes(keys, defaults),
        norm={
            "epsilon": keys.take("rms_norm_eps", defaults.norm_epsilon),
            "scale": "one_plus_weight",
            "scale_in": "float32",
        },
        position=position,
        attention={"qkv_bias": bias, "out_bias": bias},
        mlp={"d_ff": keys.take("intermediate_size"), "activation": activation},
        embedding_scale="sqrt_d_model",
    )


def _read(keys: Keys) -> dict[str, Any]:
    return gemma_fields(keys, DEFAULTS, activation=_activation(keys), position=one_rope(keys, DEFAULTS))


def _activation(keys: Keys) -> str:
    """Our name of the activation; RequestError where it depends on who reads the file.

    The first files said `gelu` and meant its tanh form, and transformers still takes it so. Its releases before 5
    go by `hidden_activation` (the tanh form where that is absent), later ones by `hidden_act`.
    """
    tanh = "gelu_pytorch_tanh"
    older, newer = keys.given("hidden_activation", tanh), keys.given("hidden_act", tanh)
    keys.raw |= {"hidden_activation": older, "hidden_act": tanh if newer == "gelu" else newer}
    activation = keys.activation("hidden_act")
    if keys.activation("hidden_activation") != activation:
        raise RequestError(
            f"{keys.where}: hidden_activation={quoted(older)} and hidden_act={quoted(newer)} differ: releases "
            "of transformers before 5 go by the first, later ones by the second; remove the wrong one and write the "
            "other for both"
        )
    return activation


def _write(config: Decoder) -> dict[str, Any]:
    told = write_gemma(config)
    return told | {"hidden_activation": told["hidden_act"]}


def write_gemma(config: Decoder) -> dict[str, Any]:
    """The keys that the Gemmas share."""
    told = write_llama(config)
    return merge(told, {"attention_bias": config.attention.qkv_bias})


FAMILY = Family("gemma", "GemmaForCausalLM", _read, _write, LLAMA)
