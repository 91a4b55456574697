"""Parameters in the form that decoding on one device reads fastest; made once, when a model is loaded."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lmx.types import Tree

_PACKED = {
    "attention": ("query_key_value", ("query", "key", "value")),
    "mlp": ("gate_up", ("gate", "up")),
}
"""Of a part of a layer: the products of the same activations, and the name of the one matrix that they become."""


def prepare(params: Tree, dtype: Any, *, release: bool = False) -> Tree:
    """Layers one by one instead of stacked, products of the same activations packed into one, all in `dtype`.

    Nothing is then cut out, concatenated or cast while tokens are made. For models whose layers are unrolled; the
    arrays of layers are copies. With `release` each of the stacks given is freed as soon as it was copied, so that
    no more than the largest of them is there twice; `params` cannot be used afterwards.
    """
    tables = {k: v.astype(dtype) for k, v in params["embedding"].items() if k in ("tokens", "positions")}
    prepared = params | {"embedding": params["embedding"] | tables}
    if "head" in params:
        prepared["head"] = params["head"].astype(dtype)
    return prepared | {"layers": [_layers(stack, dtype, release) for stack in params["layers"]]}


def _layers(stack: Tree, dtype: Any, release: bool) -> list[Tree]:
    n = jax.tree.leaves(stack)[0].shape[0]
    layers: list[Tree] = [{} for _ in range(n)]
    for name, part in stack.items():
        # What decides between experts stays in the precision that it was trained in.
        kept = None if name == "moe" else dtype
        if not isinstance(part, dict):
            made = _unstacked(part, n, kept, release)
        else:
            made = [{} for _ in range(n)]
            for key, leaves in _groups(name, part).items():
                for one, value in zip(made, _unstacked(leaves, n, kept, release), strict=True):
                    one[key] = value
        for layer, one in zip(layers, made, strict=True):
            layer[name] = one
    return layers


def _groups(name: str, part: dict[str, Any]) -> dict[str, Any]:
    """What of a part is made together: key -> a subtree, or the tuple of those that lie side by side."""
    packed, names = _PACKED.get(name, ("", ()))
    if not names or names[0] not in part or "latent_down" in part:
        return part
    rest = {key: value for key, value in part.items() if key not in names}
    return rest | {packed: tuple(part[key] for key in names)}


def _unstacked(leaves: Any, n: int, dtype: Any, release: bool) -> list[Any]:
    """For each of `n` layers its slice, in `dtype` (None: as it is); those of a tuple [D, ..] joined to one matrix."""

    def cut(tree: Any, i: Any) -> Any:
        one = jax.tree.map(lambda x: x[i] if dtype is None else x[i].astype(dtype), tree)
        if not isinstance(one, tuple):
            return one
        return jnp.concatenate([p.reshape(p.shape[0], -1) for p in one], axis=1)

    one = jax.jit(cut)
    made = [one(leaves, i) for i in range(n)]
    if release:
        jax.block_until_ready(made)
        for leaf in jax.tree.leaves(leaves):
            leaf.delete()
    return made
