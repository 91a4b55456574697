"""What all update rules share: clipping, dtype of the moments, weight decay, learning rate.

Everything here is elementwise, so that XLA fuses it with the rule's own arithmetic: a parameter, its gradient
and its moments are each read and written once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmx.optim.config import Optimizer
from lmx.optim.groups import Assignment
from lmx.params import map_named
from lmx.types import Tree


class OptimizerState(NamedTuple):
    """count: int32 [], updates made; inner: the rule's moments."""

    count: jax.Array
    inner: Any


def clip_factor(gradients: Tree, clip_norm: float | None, grad_norm: jax.Array | None) -> jax.Array | None:
    """What gradients are multiplied by to have at most the global norm `clip_norm`; None when it is None.

    `grad_norm` is their norm where it is known already.
    """
    if clip_norm is None:
        return None
    norm = optax.global_norm(gradients) if grad_norm is None else grad_norm
    return jnp.where(norm > clip_norm, clip_norm / norm, 1.0).astype(jnp.float32)


def clip(clip_norm: float | None) -> optax.GradientTransformationExtraArgs:
    """Scales gradients, as float32, down to a global norm; `grad_norm=` saves computing theirs."""

    def update(updates: Tree, state: Any, params: Tree = None, *, grad_norm: Any = None, **_: Any) -> tuple:
        factor = clip_factor(updates, clip_norm, grad_norm)
        return jax.tree.map(lambda g: _float32(g, factor), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def only_float32(
    name: str, rule: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """Refuses parameters of other dtypes: the rule keeps running sums in the dtype of the parameters."""

    def init(params: Tree) -> Any:
        others = {str(p.dtype) for p in jax.tree.leaves(params)} - {"float32"}
        if others:
            raise ValueError(
                f"optimizer={name} keeps running sums as precise as the parameters, and {', '.join(others)} "
                "loses them; set trainer.param_dtype=float32"
            )
        return rule.init(params)

    return optax.GradientTransformationExtraArgs(init, rule.update)


def _float32(gradient: jax.Array, factor: jax.Array | None) -> jax.Array:
    gradient = gradient.astype(jnp.float32)
    return gradient if factor is None else gradient * factor


def _cast_moments(state: Tree, dtype: Any) -> Tree:
    """Floating-point arrays to `dtype`; scalars and counts stay."""
    is_moment = lambda x: x.ndim > 0 and jnp.issubdtype(x.dtype, jnp.floating)
    return jax.tree.map(lambda x: x.astype(dtype) if is_moment(x) else x, state)


def _decayed(kind: str, direction: jax.Array, param: jax.Array, decay: float) -> jax.Array:
    """Direction with its weight decay; both are subtracted from the parameter.

    Cautious decay (arXiv:2510.12402) acts where direction * param >= 0: there the update moves the weight
    the same way as decay does, towards zero.
    """
    if decay == 0:
        return direction
    if kind == "cautious":
        return direction + jnp.where(direction * param >= 0, decay * param, 0.0)
    return direction + decay * param


def assemble(
    optimizer: Optimizer,
    direction: optax.GradientTransformation,
    assignment: dict[str, Assignment],
    specs: Tree,
    schedule: Callable,
) -> optax.GradientTransformationExtraArgs:
    """Clips, takes the rule's direction u, and gives -learning_rate * (u + decay * weight) in float32."""
    inner = optax.with_extra_args_support(direction)
    plan = map_named(lambda path, _: assignment[path], specs)
    rescale = optimizer.rescale(specs)
    kind = optimizer.decay_kind

    def init(params: Tree) -> OptimizerState:
        state = inner.init(params)
        if optimizer.state_dtype is not None:
            state = _cast_moments(state, optimizer.state_dtype)
        return OptimizerState(jnp.zeros([], jnp.int32), state)

    def update(
        updates: Tree,
        state: Any,
        params: Tree = None,
        *,
        grad_norm: Any = None,
        step: Any = None,
        **rest: Any,
    ) -> tuple[Tree, Any]:
        factor = clip_factor(updates, optimizer.clip_norm, grad_norm)
        gradients = jax.tree.map(lambda g: _float32(g, factor), updates)
        params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        moments = _cast_moments(state.inner, jnp.float32)
        steps, moments = inner.update(gradients, moments, params, **rest)
        moments = jax.tree.map(lambda new, old: new.astype(old.dtype), moments, state.inner)

        scheduled = schedule(state.count if step is None else step)
        if kind != "independent":
            steps = _map_plan(lambda a, u, p: _decayed(kind, u, p, a.weight_decay), plan, steps, params)
        if rescale is not None:
            steps = rescale(steps, params)
        steps = _map_plan(lambda a, u: -(a.learning_rate * scheduled) * u, plan, steps)
        if kind == "independent":
            steps = _map_plan(lambda a, u, p: u - scheduled * a.weight_decay * p, plan, steps, params)
        return steps, OptimizerState(state.count + 1, moments)

    return optax.GradientTransformationExtraArgs(init, update)


def _map_plan(function: Callable, plan: Tree, *rest: Tree) -> Tree:
    return jax.tree.map(function, plan, *rest, is_leaf=lambda x: isinstance(x, Assignment))
