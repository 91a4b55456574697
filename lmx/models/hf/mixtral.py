"""Mixtral: Mistral with a mixture on every layer."""

from __future__ import annotations

from typing import Any

from lmx.models.config import Decoder
from lmx.models.hf.family import (
    ATTENTION,
    OUTSIDE,
    PRE_NORMS,
    Defaults,
    Family,
    expect_types,
    llama_fields,
    window_of,
    write_llama,
)
from lmx.models.hf.fields import merge
from lmx.models.hf.keys import Keys
from lmx.models.hf.moe import experts_of, mixture, router_of

_MOE = "model.layers.{l}.block_sparse_moe."


def _read(keys: Keys) -> dict[str, Any]:
    found = llama_fields(keys, Defaults(kv_heads=8, theta=1e6, max_length=131072, norm_epsilon=1e-5))
    moe = mixture(
        n_experts=keys.take("num_local_experts", 8),
        top_k=keys.take("num_experts_per_tok", 2),
        d_ff=found["mlp"]["d_ff"],
        router={},
    )
    window = keys.take("sliding_window", None)
    expect_types(keys, found["n_layers"], [window])
    return merge(found, {"attention": {"windows": [window]}, "moe": moe})


def _write(config: Decoder) -> dict[str, Any]:
    assert config.moe is not None
    return write_llama(config) | {
        "intermediate_size": config.moe.d_ff,
        "sliding_window": window_of(config),
        "num_local_experts": config.moe.n_experts,
        "num_experts_per_tok": config.moe.top_k,
    }


FAMILY = Family(
    "mixtral",
    "MixtralForCausalLM",
    _read,
    _write,
    (
        *OUTSIDE,
        *ATTENTION,
        *PRE_NORMS,
        *router_of(f"{_MOE}gate"),
        *experts_of(_MOE + "experts.{e}.", gate="w1", up="w3", down="w2"),
    ),
)
