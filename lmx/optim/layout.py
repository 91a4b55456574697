"""How an optimizer's state lies over the devices: as the parameters do."""

from __future__ import annotations

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmx.types import Tree


def state_shardings(
    transformation: optax.GradientTransformation, params: Tree, shardings: Tree, mesh: Mesh
) -> Tree:
    """A tree of `NamedSharding`s for the optimizer's state.

    A leaf with the path and shape of a parameter lies as that parameter does; all others (counts, factored
    moments) are on every device. `params` may be abstract (`jax.ShapeDtypeStruct`).

    An initial state is all zeros and so takes nothing over from its parameters' shardings: use
    `jax.jit(transformation.init, out_shardings=state_shardings(...))`.
    """
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    by_path = {
        path: (param.shape, sharding)
        for (path, param), sharding in zip(flat, jax.tree.leaves(shardings), strict=True)
    }
    everywhere = NamedSharding(mesh, PartitionSpec())

    def one(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        for start in range(len(path)):
            shape, sharding = by_path.get(path[start:], (None, None))
            if shape == leaf.shape and sharding is not None:
                return sharding
        return everywhere

    return jax.tree_util.tree_map_with_path(one, jax.eval_shape(transformation.init, params))
