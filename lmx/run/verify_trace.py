"""Every named activation of a forward pass, and the gradient of the loss with respect to each.

The program is read as JAX traced it: `jax.ad_checkpoint.checkpoint_name` leaves an equation in it at each name, where
the value is kept and a zero is added whose gradient is that of the activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from lmx.layers.names import BLOCK_INPUT
from lmx.types import Tree


def trace_named(
    function: Callable[[Tree], jax.Array], params: Tree
) -> tuple[list[str], list[jax.Array], list[jax.Array]]:
    """Labels `index|layer|name` in the order of computation, values, and gradients of `function(params)`, a scalar.

    Only names in the outermost program count: layers must be unrolled, and not rematerialised.
    """
    closed = jax.make_jaxpr(function)(params)
    names = [e for e in closed.jaxpr.eqns if e.primitive.name == "name"]
    labels, layer = [], -1
    for i, equation in enumerate(names):
        name = equation.params["name"]
        layer += name == BLOCK_INPUT
        labels.append(f"{i}|{layer if layer >= 0 else ''}|{name}")

    def tapped(taps: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        return _evaluate(closed, jax.tree.leaves(params), taps)

    zeros = [jnp.zeros(e.outvars[0].aval.shape, e.outvars[0].aval.dtype) for e in names]  # type: ignore[attr-defined]
    gradients, values = jax.jit(jax.grad(tapped, has_aux=True))(zeros)
    return labels, values, gradients


def _evaluate(closed: Any, arguments: list[Any], taps: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    """The result of the program with `taps` added at its names, and the values there before."""
    known: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    known |= dict(zip(closed.jaxpr.invars, arguments, strict=True))
    seen: list[jax.Array] = []

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in closed.jaxpr.eqns:
        bound = equation.primitive.get_bind_params(equation.params)
        functions, knobs = bound if isinstance(bound, tuple) else ((), bound)  # older JAX: a pair
        results = equation.primitive.bind(*functions, *map(read, equation.invars), **knobs)
        if not equation.primitive.multiple_results:
            results = [results]
        if equation.primitive.name == "name":
            seen.append(results[0])
            results = [results[0] + taps[len(seen) - 1]]
        known |= dict(zip(equation.outvars, results, strict=True))
    return read(closed.jaxpr.outvars[0]), seen
