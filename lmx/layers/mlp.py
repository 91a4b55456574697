"""The feed-forward part: plain, or gated (arXiv:2002.05202)."""

from __future__ import annotations

from typing import Any

import jax

from lmx.params import Init, Param
from lmx.types import Tree


def mlp_specs(config: Any, stack: int, matrix: Any, out: Any) -> dict[str, Param]:
    """Parameters of `stack` layers: up, down, gate when gated, and their biases as configured.

    `matrix(inputs)` and `out(inputs)` give the `Init` of a product summing over `inputs` elements.
    """
    width, hidden = config.d_model, config.mlp.d_ff
    names = ["gate", "up"] if config.mlp.kind == "gated" else ["up"]
    specs = {
        name: Param((stack, width, hidden), ("layers", "embed", "ffn"), matrix(width), ("embed",))
        for name in names
    }
    specs["down"] = Param((stack, hidden, width), ("layers", "ffn", "embed"), out(hidden), ("ffn",))
    if config.mlp.bias:
        for name in names:
            specs[f"{name}_bias"] = Param((stack, hidden), ("layers", "ffn"), Init("zeros"))
        specs["down_bias"] = Param((stack, width), ("layers", "norm"), Init("zeros"))
    return specs


def mlp(x_BTD: jax.Array, params: Tree, *, config: Any, kernels: Any, shard: Any) -> jax.Array:
    """Output [B, T, D] in the dtype of `x`."""

    def into(name: str) -> jax.Array:
        y_BTF = kernels.einsum("btd,df->btf", x_BTD, params[name])
        if config.mlp.bias:
            y_BTF = y_BTF + params[f"{name}_bias"]
        return shard(y_BTF, ("batch", "length", "act_ffn"))

    activate = kernels.activation[config.mlp.activation]
    if config.mlp.kind == "gated":
        h_BTF = activate(into("gate")) * into("up")
    else:
        h_BTF = activate(into("up"))
    y_BTD = kernels.einsum("btf,fd->btd", h_BTF, params["down"])
    if config.mlp.bias:
        y_BTD = y_BTD + params["down_bias"]
    return y_BTD
