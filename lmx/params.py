"""`Param`: the one description of a parameter, from which everything else follows.

A model is a tree of `Param`s. Initial values, abstract shapes, shardings, counts, weight-decay masks and the
matrix dimensions that Muon and muP need all come from that tree; nothing guesses from `ndim` or a name.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from lmx.sharding import check_divisible, spec
from lmx.types import Tree


class Init(NamedTuple):
    """How a parameter starts: `zeros`, `ones`, `normal` or `truncated_normal` (at 3 sigma) with `std`."""

    kind: str
    std: float = 0.0


class Param(NamedTuple):
    """Shape, meaning and start of one parameter.

    shape   tuple of ints
    axes    a logical name for each dimension: layers embed ffn heads kv_heads head vocab position ...
    init    Init
    inputs  names of the axes that a product with this parameter sums over; () for scales and biases.
            An embedding's is ("vocab",). The other axes, `layers` aside, are its outputs.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: Init
    inputs: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether this is the weight of a matrix product inside the network: neither scale, bias nor vocabulary."""
        return bool(self.inputs) and not {"vocab", "position"} & set(self.axes)


def is_param(x: object) -> bool:
    """Whether `x` is a leaf of a tree of `Param`s."""
    return isinstance(x, Param)


def map_params(function: Callable, specs: Tree, *rest: Tree) -> Tree:
    """`jax.tree.map` over a tree of `Param`s, each a leaf."""
    return jax.tree.map(function, specs, *rest, is_leaf=is_param)


def path_name(path: tuple) -> str:
    """A key path as `layers.0.attention.query`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named_params(specs: Tree) -> dict[str, Param]:
    """Path -> `Param`, in tree order."""
    leaves = jax.tree_util.tree_flatten_with_path(specs, is_leaf=is_param)[0]
    return {path_name(path): param for path, param in leaves}


def map_named(function: Callable[[str, Param], object], specs: Tree) -> Tree:
    """A tree like `specs` with `function(path, param)` at each leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda path, p: function(path_name(path), p), specs, is_leaf=is_param
    )


def count(specs: Tree) -> int:
    """Number of parameters."""
    return sum(p.size for p in named_params(specs).values())


def abstract(specs: Tree, dtype: jnp.dtype, shardings: Tree | None = None) -> Tree:
    """The tree of `jax.ShapeDtypeStruct`s."""
    if shardings is None:
        return map_params(lambda p: jax.ShapeDtypeStruct(p.shape, dtype), specs)
    return map_params(lambda p, s: jax.ShapeDtypeStruct(p.shape, dtype, sharding=s), specs, shardings)


def shardings(specs: Tree, mesh: jax.sharding.Mesh, rules: dict) -> Tree:
    """A tree of `NamedSharding`s; ValueError naming the parameter where a dimension does not divide."""

    def one(path: str, param: Param) -> NamedSharding:
        check_divisible(path, param.shape, param.axes, mesh, rules)
        return NamedSharding(mesh, spec(param.axes, rules))

    return map_named(one, specs)


_SMALL, _PIECE = 1 << 20, 1 << 14
"""Elements of a parameter that is drawn in pieces by the one loop of all such, and of a piece."""


def _standard(kind: str, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """float32 draws of mean 0 and deviation 1."""
    if kind == "normal":
        return jax.random.normal(key, shape, jnp.float32)
    if kind == "truncated_normal":  # 0.98658: the deviation left after the cut
        return jax.random.truncated_normal(key, -3.0, 3.0, shape, jnp.float32) / 0.98658
    raise ValueError(f"unknown initialiser {kind!r}: zeros, ones, normal, truncated_normal")


def _drawn_small(specs: dict[str, Param], key: jax.Array) -> dict[str, jax.Array]:
    """Standard draws of every small parameter that starts at random, float32, by path.

    One loop over pieces of one size: compiling a generator of random numbers for every parameter would take most of
    the time to the first step of a small model.
    """
    drawn: dict[str, jax.Array] = {}
    for kind in sorted({p.init.kind for p in specs.values()} - {"zeros", "ones"}):
        small = {path: p for path, p in specs.items() if p.init.kind == kind and p.size <= _SMALL}
        if not small:
            continue
        pieces = [(_number(path), i) for path, p in small.items() for i in range(-(-p.size // _PIECE))]

        def piece(place: jax.Array, kind: str = kind) -> jax.Array:
            return _standard(kind, jax.random.fold_in(jax.random.fold_in(key, place[0]), place[1]), (_PIECE,))

        whole, start = jax.lax.map(piece, jnp.asarray(pieces, jnp.uint32)).reshape(-1), 0
        for path, p in small.items():
            drawn[path] = whole[start : start + p.size].reshape(p.shape)
            start += -(-p.size // _PIECE) * _PIECE
    return drawn


def _number(path: str) -> int:
    return zlib.crc32(path.encode())


def init(specs: Tree, key: jax.Array, dtype: jnp.dtype, shardings: Tree | None = None) -> Tree:
    """Initial values, each from its own key (folded from its path), so equal on every mesh.

    Compiled as one program whose outputs are laid out as `shardings` say: no device ever holds the whole.
    """

    def draw_all(key: jax.Array) -> Tree:
        drawn = _drawn_small(named_params(specs), key)

        def one(path: str, param: Param) -> jax.Array:
            kind, std = param.init
            if kind in ("zeros", "ones"):
                return jnp.full(param.shape, float(kind == "ones"), dtype)
            values = drawn.get(path)
            if values is None:
                values = _standard(kind, jax.random.fold_in(key, _number(path)), param.shape)
            return (std * values).astype(dtype)

        return map_named(one, specs)

    return jax.jit(draw_all, out_shardings=shardings)(key)
