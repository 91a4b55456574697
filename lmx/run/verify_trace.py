"""Every named activation of a forward pass, and the gradient of the loss with respect to each.

The program is read as JAX traced it: `jax.ad_checkpoint.checkpoint_name` leaves an equation in it at each name, where
the value is kept and a zero is added whose gradient is that of the activation. Loops are gone through turn by turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from lmx.layers.names import BLOCK_INPUT
from lmx.models import pipeline
from lmx.models.specs import Group
from lmx.sharding import Shard
from lmx.types import Tree


class Tensor(NamedTuple):
    """A named activation: the layer that it was seen in (None: before the first), its value, and its gradient."""

    name: str
    layer: int | None
    value: jax.Array
    gradient: jax.Array


def trace_named(function: Callable[[Tree], jax.Array], params: Tree) -> list[Tensor]:
    """The named activations of `function(params)`, a scalar, in the order of computation.

    Of a loop, each turn's; not those inside of `shard_map`, nor rematerialised ones.
    """
    closed = jax.make_jaxpr(function)(params)
    names = list(_names(closed.jaxpr))

    def tapped(taps: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        seen: list[jax.Array] = []
        (result,) = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(params), taps, seen)
        return result, seen

    zeros = [jnp.zeros(e.outvars[0].aval.shape, e.outvars[0].aval.dtype) for e in names]
    gradients, values = jax.jit(jax.grad(tapped, has_aux=True))(zeros)
    found, layer = [], -1
    for equation, value, gradient in zip(names, values, gradients, strict=True):
        name = equation.params["name"]
        layer += name == BLOCK_INPUT
        found.append(Tensor(name, layer if layer >= 0 else None, value, gradient))
    return found


def of_stages(found: Sequence[Tensor], groups: Sequence[Group], shard: Shard) -> list[Tensor]:
    """What was seen in a pipeline, all stages at once at each tick, as layers with the rows of the whole batch.

    `groups` are those of the model's layers; without a pipeline, `found` itself.
    """
    plan = pipeline.schedule(shard)
    if plan is None:
        return list(found)
    visits: dict[int | None, list[Tensor]] = {}
    for tensor in found:
        visits.setdefault(tensor.layer, []).append(tensor)
    result = visits.pop(None, [])
    seen = layers = 0
    for group in groups:
        per = group.repeats // plan.blocks * len(group.kinds)
        for i in range(per):
            ticks = [visits[seen + tick * per + i] for tick in range(plan.ticks)]
            for one in zip(*ticks, strict=True):
                values = pipeline.whole([t.value for t in one], shard=shard)
                gradients = pipeline.whole([t.gradient for t in one], shard=shard)
                for block in range(plan.blocks):
                    number = layers + block * per + i
                    result.append(Tensor(one[0].name, number, values[block], gradients[block]))
        seen, layers = seen + plan.ticks * per, layers + per * plan.blocks
    return result


def labels(found: Iterable[Tensor]) -> list[str]:
    """`order|layer|name|shape.n` of each; all but the order says which tensor of another mesh is the same.

    The nth of that shape: on some meshes a name is seen that on others is hidden in a `shard_map`.
    """
    counted: dict[str, int] = {}
    result = []
    for order, tensor in enumerate(found):
        layer = "" if tensor.layer is None else tensor.layer
        key = f"{layer}|{tensor.name}|{'x'.join(map(str, tensor.value.shape))}"
        counted[key] = counted.get(key, -1) + 1
        result.append(f"{order}|{key}.{counted[key]}")
    return result


def _names(jaxpr: Any) -> Iterator[Any]:
    """The equations that name a value, as often as they are computed."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "name":
            yield equation
        elif equation.primitive.name == "scan":
            for _ in range(equation.params["length"]):
                yield from _names(equation.params["jaxpr"].jaxpr)


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], taps: list[jax.Array], seen: list[jax.Array]
) -> list[Any]:
    """The results of a program with `taps` added at its names; the values there before go to the end of `seen`."""
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in jaxpr.eqns:
        given = [read(variable) for variable in equation.invars]
        if equation.primitive.name == "name":
            seen.append(_bound(equation, given)[0])
            results = [seen[-1] + taps[len(seen) - 1]]
        elif equation.primitive.name == "scan" and any(True for _ in _names(equation.params["jaxpr"].jaxpr)):
            results = _turn_by_turn(equation.params, given, taps, seen)
        else:
            results = _bound(equation, given)
        known |= dict(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _bound(equation: Any, given: Sequence[Any]) -> list[Any]:
    """The results of one equation."""
    found = equation.primitive.get_bind_params(equation.params)
    functions, knobs = found if isinstance(found, tuple) else ((), found)  # older JAX: a pair
    results = equation.primitive.bind(*functions, *given, **knobs)
    return list(results) if equation.primitive.multiple_results else [results]


def _turn_by_turn(
    knobs: dict[str, Any], given: Sequence[Any], taps: list[jax.Array], seen: list[jax.Array]
) -> list[Any]:
    """The results of a `jax.lax.scan`."""
    first, n = knobs["num_consts"], knobs["num_carry"]
    fixed, carry, rows = given[:first], list(given[first : first + n]), given[first + n :]
    backwards, made = -1 if knobs["reverse"] else 1, []
    for i in range(knobs["length"])[::backwards]:
        turn = [*fixed, *carry, *(x[i] for x in rows)]
        results = _evaluate(knobs["jaxpr"].jaxpr, knobs["jaxpr"].consts, turn, taps, seen)
        carry = results[:n]
        made.append(results[n:])
    return [*carry, *(jnp.stack(parts) for parts in zip(*made[::backwards], strict=True))]
