"""Muon: momentum made orthogonal (Jordan et al., 2024), for matrices of any number of dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmx.optim.config import Muon
from lmx.optim.layerwise import STACKED
from lmx.params import Param, named_params, path_name
from lmx.types import Tree

Polynomial = tuple[float, float, float]
"""a, b, c of a x + b x^3 + c x^5."""

QUINTIC: Polynomial = (3.4445, -4.7750, 2.0315)

# arXiv:2505.16932, algorithm 1: each the best for the range of singular values that the ones before it leave.
POLAR_EXPRESS: tuple[Polynomial, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
_SAFETY = 1.01  # keeps singular values that rounding lifts above 1 inside the range of the next polynomial


def polynomials(name: str, steps: int) -> list[Polynomial]:
    """The polynomial of each of `steps` iterations."""
    if name == "quintic":
        return [QUINTIC] * steps
    safe = [(a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in POLAR_EXPRESS[:-1]]
    return list(islice(chain(safe, repeat(POLAR_EXPRESS[-1])), steps))


_SMALL = 1 << 22
"""Elements up to which matrices are orthogonalised together: so small, they cost what their number costs."""


class MatrixLayout(NamedTuple):
    """How an array is a stack of matrices: transposed by `order`, then reshaped to [batch..., rows, columns].

    rows are the inputs of the product, columns its outputs. axes are the names of the array's axes, transposed, with
    those of key/value heads as heads'.
    """

    axes: tuple[str, ...]
    order: tuple[int, ...]
    batch: tuple[int, ...]
    rows: int
    columns: int

    def split(self, x: jax.Array) -> jax.Array:
        """The array as [batch..., rows, columns]."""
        return x.transpose(self.order).reshape(*self.batch, self.rows, self.columns)

    def join(self, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The inverse of `split`, for an array of this shape."""
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return x.reshape([shape[i] for i in self.order]).transpose(back)


def matrix_layout(param: Param, heads: str) -> MatrixLayout:
    """Layers and experts are always separate matrices; heads are when `heads` is per_head."""
    apart = set(STACKED) | ({"heads", "kv_heads"} if heads == "per_head" else set())
    batch = [i for i, axis in enumerate(param.axes) if axis in apart]
    rows = [i for i, axis in enumerate(param.axes) if axis not in apart and axis in param.inputs]
    columns = [i for i, axis in enumerate(param.axes) if axis not in apart and axis not in param.inputs]
    size = lambda dims: math.prod(param.shape[i] for i in dims)
    stack = tuple(param.shape[i] for i in batch)
    order = (*batch, *rows, *columns)
    axes = tuple(param.axes[i].removeprefix("kv_") for i in order)
    return MatrixLayout(axes, order, stack, size(rows), size(columns))


def orthogonalise(x_BRC: jax.Array, coefficients: list[Polynomial], dtype: str) -> jax.Array:
    """The nearest matrices with orthonormal rows or columns, roughly: singular values near 1.

    x [..., R, C] float32; the same comes back. A matrix of zeros stays one. The products are square in the
    shorter side.
    """
    norm = jnp.linalg.norm(x_BRC, axis=(-2, -1), keepdims=True)
    x = (x_BRC / (norm * _SAFETY + 1e-7)).astype(dtype)
    tall = x.shape[-2] > x.shape[-1]
    for a, b, c in coefficients:
        gram = _gram(x, tall).astype(dtype)
        mix = (b * gram + c * _product("...ij,...jk->...ik", gram, gram)).astype(dtype)
        step = _product("...rk,...kc->...rc", *((x, mix) if tall else (mix, x)))
        x = (a * x + step).astype(dtype)
    return x.astype(jnp.float32)


def _product(indices: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(indices, x, y, preferred_element_type=jnp.float32)


def _gram(x: jax.Array, tall: bool) -> jax.Array:
    """X^T X of tall matrices, X X^T of others."""
    if not tall:
        return _product("...rk,...ck->...rc", x, x)
    if x.shape[-2] % 2:
        return _product("...kr,...kc->...rc", x, x)
    # On CPU, XLA uses the matrix unit (3 times faster) if the axis summed over stands last, or is two axes.
    x = x.reshape(*x.shape[:-2], 2, x.shape[-2] // 2, x.shape[-1])
    return _product("...akr,...akc->...rc", x, x)


def update_scale(rule: str, rows: int, columns: int) -> float:
    """Factor of an orthogonal update of a matrix with `rows` inputs and `columns` outputs."""
    if rule == "original":
        return max(1.0, columns / rows) ** 0.5
    if rule == "match_rms_adamw":
        return 0.2 * max(rows, columns) ** 0.5
    return (columns / rows) ** 0.5 if rule == "spectral" else 1.0


def _together(
    function: Callable[[jax.Array], jax.Array], stacks: list[jax.Array], axes: list[tuple[str, ...]]
) -> list[jax.Array]:
    """`function` of each [..., R, C]; small ones alike in shape and axes, as queries, keys and values are, at once.

    They are stacked along an axis of their own, which leaves each its sharding.
    """
    alike: dict[Any, list[int]] = {}
    for i, (x, names) in enumerate(zip(stacks, axes, strict=True)):
        alike.setdefault((x.shape, names) if x.size <= _SMALL else i, []).append(i)
    results: dict[int, jax.Array] = {}
    for places in alike.values():
        if len(places) == 1:
            results[places[0]] = function(stacks[places[0]])
        else:
            results |= dict(zip(places, function(jnp.stack([stacks[i] for i in places])), strict=True))
    return [results[i] for i in range(len(stacks))]


class MuonState(NamedTuple):
    """momentum: mean of the gradients. second: mean square of each neuron's updates, or None."""

    momentum: Tree
    second: Tree


class _Step(NamedTuple):
    update: jax.Array
    second: jax.Array | None


def _even(x_BRC: jax.Array, second_B1C: jax.Array, decay: float) -> tuple[jax.Array, jax.Array]:
    """Updates in which every neuron (column) moves as far as others did over time, as large as before in all.

    NorMuon (arXiv:2510.05491), algorithm 1: orthogonal updates have equal singular values, yet rows of unequal size.
    """
    second_B1C = decay * second_B1C + (1 - decay) * jnp.mean(x_BRC * x_BRC, axis=-2, keepdims=True)
    y_BRC = x_BRC / (jnp.sqrt(second_B1C) + 1e-8)
    size = lambda x: jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)
    return y_BRC * (size(x_BRC) / (size(y_BRC) + 1e-8)), second_B1C


def scale_by_muon(config: Muon, specs: Tree) -> optax.GradientTransformation:
    """Gradients -> orthogonal directions, for those leaves that are not masked out."""
    layouts = {path: matrix_layout(param, config.heads) for path, param in named_params(specs).items()}
    coefficients = polynomials(config.newton_schulz.coefficients, config.newton_schulz.steps)
    beta, decay = config.momentum, config.second_moment

    def direction(x_BRC: jax.Array) -> jax.Array:
        return orthogonalise(x_BRC, coefficients, config.newton_schulz.dtype)

    def one(path: tuple, x: jax.Array, gradient: jax.Array, second: jax.Array | None) -> _Step:
        layout = layouts[path_name(path)]
        if decay is not None and second is not None:
            x, second = _even(x, second, decay)
        x = x * update_scale(config.scale, layout.rows, layout.columns)
        return _Step(layout.join(x, gradient.shape), second)

    def update(updates: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        momentum = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, state.momentum, updates)
        ahead = lambda m, g: (1 - beta) * g + beta * m if config.nesterov else m
        means, structure = jax.tree.flatten_with_path(jax.tree.map(ahead, momentum, updates))
        names = [path_name(path) for path, _ in means]
        split = [layouts[name].split(x) for name, (_, x) in zip(names, means, strict=True)]
        directions = structure.unflatten(_together(direction, split, [layouts[name].axes for name in names]))
        second = jax.tree.map(lambda _: None, updates) if state.second is None else state.second
        steps = jax.tree_util.tree_map_with_path(one, directions, updates, second)
        pick = lambda i: jax.tree.map(lambda s: s[i], steps, is_leaf=lambda s: isinstance(s, _Step))
        return pick(0), MuonState(momentum, None if decay is None else pick(1))

    def init(params: Tree) -> MuonState:
        def zeros(path: tuple, _: jax.Array) -> jax.Array:
            layout = layouts[path_name(path)]
            return jnp.zeros((*layout.batch, 1, layout.columns), jnp.float32)

        second = None if decay is None else jax.tree_util.tree_map_with_path(zeros, params)
        return MuonState(jax.tree.map(jnp.zeros_like, params), second)

    return optax.GradientTransformation(init, update)
