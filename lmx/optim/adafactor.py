"""Adafactor (arXiv:1804.04235) on logical axes: rows are inputs, columns are outputs, each layer apart."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmx.optim.config import Adafactor
from lmx.optim.layerwise import layer_axes
from lmx.params import Param, map_params
from lmx.types import Tree


class AdafactorState(NamedTuple):
    """Second moments: `rows` and `columns` of factored parameters, `full` ones of the others (else None)."""

    count: jax.Array
    rows: Tree
    columns: Tree
    full: Tree


class _Moments(NamedTuple):
    update: jax.Array
    rows: Any
    columns: Any
    full: Any


def _sides(param: Param) -> tuple[tuple[int, ...], tuple[int, ...]]:
    inside = layer_axes(param)
    rows = tuple(i for i in inside if param.axes[i] in param.inputs)
    return rows, tuple(i for i in inside if i not in rows)


def _is_factored(param: Param, min_size: int) -> bool:
    size = lambda dims: math.prod(param.shape[i] for i in dims)
    return bool(param.inputs) and min(map(size, _sides(param))) >= min_size


def _without(param: Param, dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i in dims else n for i, n in enumerate(param.shape))


def _scaled(config: Adafactor, param: Param, g: jax.Array, old: _Moments, decay: jax.Array) -> _Moments:
    """The gradient over the root of its second moment, and the new moments."""
    squares = g * g + config.epsilon
    blend = lambda new, old: decay * old + (1 - decay) * new
    if not _is_factored(param, config.min_size):
        full = blend(squares, old.full)
        return old._replace(update=g * full**-0.5, full=full)
    row_dims, column_dims = _sides(param)
    rows = blend(squares.mean(column_dims, keepdims=True), old.rows)
    columns = blend(squares.mean(row_dims, keepdims=True), old.columns)
    update = g * (rows / rows.mean(row_dims, keepdims=True)) ** -0.5 * columns**-0.5
    return _Moments(update, rows, columns, old.full)


def scale_by_adafactor(config: Adafactor, specs: Tree) -> optax.GradientTransformation:
    """Gradients -> Adafactor's directions (its steps before learning rate and decay)."""

    def init(params: Tree) -> AdafactorState:
        def zeros(param: Param, side: str) -> jax.Array | None:
            if _is_factored(param, config.min_size) == (side == "full"):
                return None
            row_dims, column_dims = _sides(param)
            gone = {"rows": column_dims, "columns": row_dims, "full": ()}[side]
            return jnp.zeros(_without(param, gone), jnp.float32)

        tree = lambda side: map_params(lambda param: zeros(param, side), specs)
        return AdafactorState(jnp.zeros([], jnp.int32), tree("rows"), tree("columns"), tree("full"))

    def update(updates: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        decay = 1 - (state.count + 1.0) ** -config.decay_power

        def one(param: Param, g: jax.Array, weight: jax.Array, *moments: Any) -> _Moments:
            new = _scaled(config, param, g, _Moments(g, *moments), decay)
            rms = lambda x: jnp.sqrt(jnp.mean(x * x, axis=layer_axes(param), keepdims=True))
            u = new.update
            if config.clip_rms is not None:
                u = u / jnp.maximum(1.0, rms(u) / config.clip_rms)
            if config.scale_by_weights:
                u = u * jnp.maximum(rms(weight), 1e-3)
            return new._replace(update=u)

        moments = map_params(one, specs, updates, params, state.rows, state.columns, state.full)
        pick = lambda name: jax.tree.map(
            lambda m: getattr(m, name), moments, is_leaf=lambda x: isinstance(x, _Moments)
        )
        return pick("update"), AdafactorState(state.count + 1, pick("rows"), pick("columns"), pick("full"))

    return optax.GradientTransformation(init, update)
