"""Arrays compared where they lie: a checksum, or a difference, for each position of a mesh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from lmx.types import Tree

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}


def _bits(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize])


def _specs(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x.sharding.spec, tree)


def _by_position(mesh: jax.sharding.Mesh, local: Callable[..., jax.Array], *trees: Tree) -> jax.Array:
    """`local` of what each device holds, in the order of `mesh.devices.flat`; every process has all of it."""
    mapped = jax.shard_map(
        lambda *parts: local(*parts)[None],
        mesh=mesh,
        in_specs=tuple(_specs(tree) for tree in trees),
        out_specs=jax.P(mesh.axis_names),
        check_vma=False,
    )
    found = jax.jit(mapped, out_shardings=NamedSharding(mesh, jax.P()))(*trees)
    return found.addressable_data(0)


def checksums(tree: Tree, mesh: jax.sharding.Mesh) -> jax.Array:
    """uint32 [positions]: a sum over the bits of all that a device holds; one flipped bit is another sum."""

    def local(tree: Tree) -> jax.Array:
        total = jnp.uint32(0)
        for x in jax.tree.leaves(tree):
            total = total * jnp.uint32(31) + jnp.sum(_bits(x).astype(jnp.uint32), dtype=jnp.uint32)
        return total

    return _by_position(mesh, local, tree)


def differences(one: Tree, other: Tree, mesh: jax.sharding.Mesh) -> jax.Array:
    """float32 [positions, arrays]: 2-norm of the difference over that of `one`, of what each device holds of an array.

    0 only where both are equal bit for bit; infinite where one is no number and the other is.
    """

    def local(one: Tree, other: Tree) -> jax.Array:
        found = []
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            same = jnp.all(_bits(a) == _bits(b))
            x, y = a.astype(jnp.float32), b.astype(jnp.float32)
            part = jnp.linalg.norm((x - y).ravel()) / jnp.maximum(
                jnp.linalg.norm(x.ravel()), jnp.finfo(jnp.float32).tiny
            )
            part = jnp.where(jnp.isfinite(part), jnp.maximum(part, jnp.finfo(jnp.float32).tiny), jnp.inf)
            found.append(jnp.where(same, 0.0, part))
        return jnp.stack(found)

    return _by_position(mesh, local, one, other)


def suspects(places: Sequence[int], first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    """The devices that can be to blame where results of these positions differ; `first`, `second`: who computed them.

    Of each position one of two. A device that is always wrong spoils two positions, and is the one that both have;
    where only one position differs, both remain.
    """
    pairs = [{first[i], second[i]} for i in places]
    common = set.intersection(*pairs) if pairs else set()
    return sorted(common or set().union(*pairs), key=lambda device: device.id)
