"""What families with mixtures of experts share."""

from __future__ import annotations

from typing import Any

from lmx.models.config import Decoder
from lmx.models.hf.declare import Tensor, one

NO_LOSSES: dict[str, Any] = {"balance_loss": 0.0, "z_loss": 0.0, "capacity_factor": None}
SOFTMAX: dict[str, Any] = {
    "scores": "softmax",
    "normalise": True,
    "bias": "none",
    "bias_update_speed": None,
    "groups": None,
    "scale": 1.0,
    "weighs": "output",
}
"""Softmax over all experts, the chosen ones renormalised: the same as a softmax over the chosen logits."""


def mixture(*, n_experts: int, top_k: int, d_ff: int, router: dict[str, Any], **more: Any) -> dict[str, Any]:
    """`moe` on every layer, with `more` instead of what is common."""
    common = {"shared_d_ff": None, "first_dense": 0, "pattern": ["moe"], **NO_LOSSES}
    return common | {"n_experts": n_experts, "top_k": top_k, "d_ff": d_ff, "router": SOFTMAX | router} | more


def router_of(name: str) -> tuple[Tensor, ...]:
    """The router's weight."""
    return (one(f"{name}.weight", "moe.router.weight", "e d -> d e"),)


def experts_of(
    prefix: str, *, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj"
) -> tuple[Tensor, ...]:
    """A tensor an expert, below `prefix` with `{e}` in it."""
    return (
        one(f"{prefix}{gate}.weight", "moe.experts.gate", "f d -> e d f"),
        one(f"{prefix}{up}.weight", "moe.experts.up", "f d -> e d f"),
        one(f"{prefix}{down}.weight", "moe.experts.down", "d f -> e f d"),
    )


def moe_layers(config: Decoder) -> list[int]:
    """Which layers are mixtures."""
    if config.moe is None:
        return []
    return [i for i, kind in enumerate(config.moe.layers(config.n_layers)) if kind == "moe"]


def pattern_of(layers: list[int], n_layers: int) -> list[str]:
    """`moe.pattern` that makes these layers mixtures."""
    return ["moe" if i in set(layers) else "dense" for i in range(n_layers)]
