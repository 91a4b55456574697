"""Models that are wrong on several devices and right on one: what a broken mesh looks like."""

from __future__ import annotations

from typing import Any, Literal

import jax

from lmx.config.component import field
from lmx.models import Decoder
from lmx.params import Param, map_named


class Planted(Decoder):
    """A decoder with a fault where there is a mesh."""

    fault: Literal["forward", "backward", "attention", "initial"] = field("what is wrong")

    def build(self, *, shard: Any, kernels: Any, **rest: Any) -> Any:
        """The model, wrong unless it is on one device."""
        if self.fault == "attention" and shard.mesh is not None:
            attention = kernels.attention
            kernels = kernels._replace(attention=lambda *a, **k: _wrong_attention(attention(*a, **k)))
        model = super().build(shard=shard, kernels=kernels, **rest)
        if shard.mesh is None or self.fault == "attention":
            return model
        if self.fault == "initial":
            return model._replace(specs=map_named(_wider, model.specs))
        wrong = _scaled if self.fault == "forward" else _wrong_gradient

        def forward(params: Any, *args: Any, **knobs: Any) -> Any:
            layers = [dict(place) for place in params["layers"]]
            layers[0] = {**layers[0], "mlp": {**layers[0]["mlp"], "down": wrong(layers[0]["mlp"]["down"])}}
            return model.forward({**params, "layers": layers}, *args, **knobs)

        return model._replace(forward=forward)


def _wider(path: str, param: Param) -> Param:
    """The output projections drawn a little wider."""
    std = param.init.std * (1.001 if path.endswith("attention.out") else 1)
    return param._replace(init=param.init._replace(std=std))


def _scaled(weights: jax.Array) -> jax.Array:
    """The weights with those of layer 2 a little too large."""
    return weights.at[2].multiply(1.001)


@jax.custom_vjp
def _wrong_gradient(weights: jax.Array) -> jax.Array:
    """The weights, whose gradient comes back a little too large for layer 1."""
    return weights


_wrong_gradient.defvjp(lambda w: (w, None), lambda _, g: (g.at[1].multiply(1.001),))


@jax.custom_vjp
def _wrong_attention(o_BTNH: jax.Array) -> jax.Array:
    """What attention gives, whose gradient goes back a little too large."""
    return o_BTNH


_wrong_attention.defvjp(lambda o: (o, None), lambda _, g: (g * 1.001,))
