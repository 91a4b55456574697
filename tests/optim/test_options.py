"""Every option of `optimizer` and `schedule`: builds, trains, keeps its state as configured."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pydantic import ValidationError

from lmx.optim import Optimizer
from lmx.optim.config import Rule
from tests.optim.toy import (
    full_rate,
    gradients_like,
    optimizer_config,
    options,
    run,
    schedule_config,
    toy_params,
    toy_specs,
)
from tests.support import read_option

OPTIMIZERS = options("optimizer")


def test_the_options_are_those_that_are_documented():
    expected = [
        "adafactor",
        "adamw",
        "ademamix",
        "lamb",
        "lion",
        "muon",
        "nadamw",
        "prodigy",
        "schedule_free_adamw",
        "sgd",
    ]
    assert expected == OPTIMIZERS
    assert options("schedule") == ["constant", "cosine", "inverse_sqrt", "linear", "wsd"]


@pytest.mark.parametrize("schedule", options("schedule"))
def test_every_schedule_drives_an_optimizer(schedule):
    specs = {"head": toy_specs()["head"]}
    params = toy_params(specs)
    factor = schedule_config(schedule).build(total_steps=100, tokens_per_step=64)
    optimizer = optimizer_config("sgd", momentum=None, clip_norm=None, learning_rate=0.1)
    gradient = gradients_like(params)
    after, _ = run(optimizer, specs, params, [gradient] * 3, schedule=factor)
    expected = params["head"] - 0.1 * sum(factor(t) for t in range(3)) * gradient["head"]
    np.testing.assert_allclose(after["head"], expected, atol=1e-6)


RATES = {"sgd": 0.1, "muon": 0.1, "prodigy": 1.0, "lion": 0.02, "lamb": 0.05}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_minimises_a_quadratic(name):
    specs, start, goal = toy_specs(), toy_params(), toy_params(seed=1)
    distance = lambda p: sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), p, goal)))
    changes = {"scale_by_weights": False} if name == "adafactor" else {}
    if name == "muon":
        changes["adamw"] = read_option("optimizer", name)["adamw"] | {"learning_rate": 0.03}
    optimizer = optimizer_config(name, learning_rate=RATES.get(name, 0.03), weight_decay=0.0, **changes)
    schedule = schedule_config("constant" if "free" in name else "linear")
    tx = optimizer.build(specs, schedule.build(total_steps=150, tokens_per_step=1))

    @jax.jit
    def train(params):
        def step(carry, _):
            updates, state = tx.update(jax.grad(distance)(carry[0]), carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=150)[0]

    after, state = train(start)
    assert distance(optimizer.eval_params(state, after)) < 0.02 * distance(start)
    for old, new in zip(jax.tree.leaves(start), jax.tree.leaves(after), strict=True):
        assert old.dtype == new.dtype
        assert not np.array_equal(old, new)


@pytest.mark.parametrize("name", ["adamw", "muon", "lion", "adafactor", "schedule_free_adamw"])
def test_moments_in_bfloat16_follow_those_in_float32(name):
    specs, params = toy_specs(), toy_params()
    gradients = [gradients_like(params, i) for i in range(4)]
    wide, _ = run(optimizer_config(name, state_dtype="float32"), specs, params, gradients)
    narrow, state = run(optimizer_config(name, state_dtype="bfloat16"), specs, params, gradients)
    moments = [x for x in jax.tree.leaves(state) if x.ndim > 0]
    if name != "schedule_free_adamw":  # which also holds its second iterate, as the parameters are
        assert {str(x.dtype) for x in moments} == ({"bfloat16"} if moments else set())
    travelled, apart = [], []
    for start, a, b in zip(*map(jax.tree.leaves, (params, wide, narrow)), strict=True):
        travelled.append(float(jnp.abs(a - start).mean()))
        apart.append(float(jnp.abs(a - b).mean()))
    assert sum(apart) < 0.05 * sum(travelled)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor", "ademamix", "sgd"])
def test_parameters_in_bfloat16_keep_their_dtype_and_that_of_the_state(name):
    specs = toy_specs()
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), toy_params())
    tx = optimizer_config(name).build(specs, full_rate)
    state = tx.init(params)
    updates, after = jax.eval_shape(tx.update, gradients_like(params), state, params)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype("float32")}
    sums = jax.eval_shape(optax.apply_updates, params, updates)
    assert {x.dtype for x in jax.tree.leaves(sums)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("name", ["prodigy", "schedule_free_adamw"])
def test_sums_that_bfloat16_would_swallow_are_refused(name):
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), toy_params())
    with pytest.raises(ValueError, match=rf"optimizer={name} .* trainer.param_dtype=float32"):
        optimizer_config(name).build(toy_specs(), full_rate).init(params)


def test_bfloat16_moments_that_could_never_shrink_are_refused():
    with pytest.raises(ValidationError, match=r"b2=0.999; set b2 to at most 0.996, or state_dtype=float32"):
        optimizer_config("adamw", b2=0.999, state_dtype="bfloat16")


def test_schedule_free_evaluates_the_average_of_its_points():
    specs, params = toy_specs(), toy_params()
    optimizer = optimizer_config("schedule_free_adamw", weight_decay=0.0, clip_norm=None, learning_rate=0.01)
    tx = optimizer.build(specs, full_rate)
    reference = optax.contrib.schedule_free_adamw(
        0.01, b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.epsilon
    )
    mine, theirs = params, params
    state, their_state = tx.init(params), reference.init(params)
    for i in range(4):
        u, state = jax.jit(tx.update)(gradients_like(params, i), state, mine)
        v, their_state = jax.jit(reference.update)(gradients_like(params, i), their_state, theirs)
        mine, theirs = optax.apply_updates(mine, u), optax.apply_updates(theirs, v)
    average = optimizer.eval_params(state, mine)
    expected = optax.contrib.schedule_free_eval_params(their_state, theirs)
    for a, b, c in zip(*map(jax.tree.leaves, (average, expected, mine)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert not np.allclose(a, c, atol=1e-4)


def test_prodigy_refuses_what_it_would_ignore():
    group = {"match": {"kind": "vector"}, "learning_rate_multiplier": 1.0, "weight_decay": None}
    for change in ({"groups": {"vectors": group}}, {"decay_kind": "cautious"}, {"state_dtype": "bfloat16"}):
        with pytest.raises(ValidationError, match="prodigy"):
            optimizer_config("prodigy", **change)


class Descent(Optimizer):
    """What a user's own package may hold."""

    def direction(self, specs):
        return optax.identity()


def test_a_users_own_rule_needs_a_direction_and_a_yaml():
    values = read_option("optimizer", "sgd") | {"_target_": f"{__name__}.Descent", "learning_rate": 0.5}
    values = {k: v for k, v in values.items() if k not in ("momentum", "nesterov")} | {"clip_norm": None}
    optimizer, specs, params = Optimizer.model_validate(values), toy_specs(), toy_params()
    gradients = gradients_like(params)
    after, _ = run(optimizer, specs, params, [gradients])
    for p, g, q in zip(*map(jax.tree.leaves, (params, gradients, after)), strict=True):
        np.testing.assert_allclose(q, p - 0.5 * g, atol=1e-6)
    assert optimizer.rule("embedding", specs["embedding"]) == Rule("Descent", 0.5, 0.0)


def test_the_configuration_loads_without_jax():
    program = "import lmx.optim, sys; assert not {'jax', 'optax', 'numpy'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", program], check=True)
