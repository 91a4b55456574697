"""The feed-forward part: plain, or gated (arXiv:2002.05202)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lmx.layers.names import MLP_GATE, MLP_HIDDEN, MLP_UP, named, scope
from lmx.params import Init, Param
from lmx.types import Tree


def weight_axes(name: str, *, expert: bool) -> tuple[str, ...]:
    """Logical axes of one MLP's parameter: those of experts are split by rules of their own."""
    width, inner = ("expert_embed", "expert_ffn") if expert else ("embed", "ffn")
    ends = {"down": (inner, width), "down_bias": ("norm",)}
    return ends.get(name, (inner,) if name.endswith("_bias") else (width, inner))


def mlp_specs(config: Any, hidden: int, stack: tuple[int, ...], matrix: Any, out: Any) -> dict[str, Param]:
    """Parameters of MLPs `hidden` wide: up, down, gate when gated, and their biases as configured.

    `stack` is (layers,) or (layers, experts). `matrix(inputs)` and `out(inputs)` give the `Init` of a product
    summing over `inputs` elements.
    """
    width, experts = config.d_model, len(stack) > 1
    names = ["gate", "up"] if config.mlp.kind == "gated" else ["up"]
    shapes = dict.fromkeys(names, (width, hidden)) | {"down": (hidden, width)}
    starts = {name: matrix(width) for name in names} | {"down": out(hidden)}

    def param(name: str, shape: tuple[int, ...], init: Init, inputs: int) -> Param:
        own = weight_axes(name, expert=experts)
        return Param((*stack, *shape), (*("layers", "experts")[: len(stack)], *own), init, own[:inputs])

    specs = {name: param(name, shape, starts[name], 1) for name, shape in shapes.items()}
    if config.mlp.bias:
        for name, shape in shapes.items():
            specs[f"{name}_bias"] = param(f"{name}_bias", shape[1:], Init("zeros"), 0)
    return specs


def hidden(into: Callable[[str], jax.Array], *, config: Any, kernels: Any) -> jax.Array:
    """The hidden layer [..., F], where `into(name)` is the product with the weight of that name, bias added."""
    activate = kernels.activation[config.mlp.activation]

    def product(name: str, kept: str) -> jax.Array:
        with scope(name):
            return named(into(name), kept)

    if config.mlp.kind == "plain":
        up = product("up", MLP_UP)
        with scope("hidden"):
            return named(activate(up), MLP_HIDDEN)
    gate, up = product("gate", MLP_GATE), product("up", MLP_UP)
    limit = config.mlp.limit
    with scope("hidden"):
        if limit is not None:
            gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit) + 1
        return named(activate(gate) * up, MLP_HIDDEN)


def mlp(x_BTD: jax.Array, params: Tree, *, config: Any, kernels: Any, shard: Any) -> jax.Array:
    """Output [B, T, D] in the dtype of `x`."""

    pair: dict[str, jax.Array] = {}
    if "gate_up" in params:  # parameters prepared for decoding: one product
        whole = kernels.einsum("btd,df->btf", x_BTD, params["gate_up"])
        pair = dict(zip(("gate", "up"), jnp.split(whole, 2, axis=-1), strict=True))

    def into(name: str) -> jax.Array:
        y_BTF = pair[name] if pair else kernels.einsum("btd,df->btf", x_BTD, params[name])
        if config.mlp.bias:
            y_BTF = y_BTF + params[f"{name}_bias"]
        return shard(y_BTF, ("batch", "length", "act_ffn"))

    h_BTF = hidden(into, config=config, kernels=kernels)
    with scope("down"):
        y_BTD = kernels.einsum("btf,fd->btd", h_BTF, params["down"])
    if config.mlp.bias:
        y_BTD = y_BTD + params["down_bias"]
    return y_BTD
