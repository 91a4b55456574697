"""Floating point operations of a traced function: its matrix products, each as often as it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def product_flops(jaxpr: Any) -> float:
    """2 a multiplication and addition of every matrix product in `jaxpr`, over all devices.

    A scan counts its length times, a branch as its most expensive side, a loop of unknown length once; inside a
    `shard_map` all devices count. A kernel of its own counts what it says of itself.
    """
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contract, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contract)
    if name.startswith("ragged_dot"):
        left, right = (v.aval.shape for v in equation.invars[:2])
        # [M, K] x [E, K, N]: each row meets one expert; with rows contracted, [K, M] x [M, N] by groups.
        return 2.0 * math.prod(left) * right[-1]
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        numbers = params["dimension_numbers"].rhs_spec
        inputs = math.prod(kernel) / kernel[numbers[0]]
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * inputs
    if name == "pallas_call":
        told = params.get("cost_estimate")
        return float(told.flops) if told is not None else 0.0
    inner = [product_flops(j) for j in _jaxprs(params)]
    if not inner:
        return 0.0
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "shard_map":
        return params["mesh"].size * sum(inner)
    return sum(inner)


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(one, "jaxpr"):
                yield one.jaxpr
            elif hasattr(one, "eqns"):
                yield one
