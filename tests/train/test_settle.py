"""What a step moves by counts: biases of routers, however the batch is split and whatever the optimizer does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.run.build import build, make_state, train_program
from lmx.types import Batch
from tests.support import model_config, train_config

SPEED = 0.01
MODEL = {
    "n_layers": 1,
    "d_model": 16,
    "n_heads": 2,
    "n_kv_heads": 2,
    "moe.d_ff": 8,
    "moe.shared_d_ff": None,
    "moe.router.bias": "choice",
    "moe.router.bias_update_speed": SPEED,
}


def trained(optimizer, accumulation, **model):
    config = train_config({"optimizer": optimizer, "trainer": {"accumulation": accumulation}})
    config = config.model_copy(update={"model": model_config("moe_tiny", MODEL | model)})
    parts = build(config, total_steps=3)
    state, program = make_state(config, parts), train_program(config, parts, norms=True)
    start = jnp.asarray(np.linspace(-0.3, 0.3, 8, dtype=np.float32)[None])
    state.params["layers"][0]["moe"]["router"]["choice_bias"] = start
    seen = [np.asarray(start)]
    for i in range(3):
        tokens = np.random.default_rng(i).integers(0, 250, (8, 33)).astype(np.int32)
        batch = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((8, 32), np.float32))
        state, metrics = program(state, jax.tree.map(jnp.asarray, batch))
        seen.append(np.asarray(state.params["layers"][0]["moe"]["router"]["choice_bias"]))
    return np.array(seen), jax.device_get(metrics)


@pytest.fixture(scope="module")
def by_adamw():
    return trained("adamw", 1)


def check(seen, metrics):
    """Neither gradient nor weight decay moves a bias."""
    moves = np.diff(seen, axis=0)
    np.testing.assert_allclose(np.abs(moves)[moves != 0], SPEED, rtol=1e-4)
    assert (moves != 0).mean() > 0.8
    np.testing.assert_array_equal(np.sign(moves[-1]), np.sign(1 - metrics["experts/load"]))


def test_biases_move_by_their_speed_and_by_nothing_else(by_adamw):
    check(*by_adamw)


def test_the_optimizer_does_not_matter():
    check(*trained("muon", 2))


def test_micro_batches_add_up_to_the_same_loads(by_adamw):
    np.testing.assert_allclose(trained("adamw", 2)[0], by_adamw[0], rtol=1e-6)


def test_a_bias_without_speed_is_not_trained():
    seen, metrics = trained("adamw", 1, **{"moe.router.bias_update_speed": None, "moe.capacity_factor": 0.5})
    np.testing.assert_array_equal(seen[-1], seen[0])
    assert metrics["experts/dropped"] > 0.1
