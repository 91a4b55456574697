"""A small tree of parameters with stacked layers, and configurations from the real YAML."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmx.optim import Optimizer, Schedule
from lmx.params import Init, Param, map_params
from tests.support import CONF, read_option

NORMAL = Init("normal", 0.3)


def optimizer_config(name, **changes):
    """conf/optimizer/NAME.yaml with some keys changed, as a configuration object."""
    return Optimizer.model_validate(read_option("optimizer", name) | changes)


def schedule_config(name, **changes):
    """conf/schedule/NAME.yaml, the same way."""
    return Schedule.model_validate(read_option("schedule", name) | changes)


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def full_rate(step):
    """The peak all the time."""
    return jnp.float32(1)


def toy_specs(n_layers=2, d_model=16, n_heads=4, d_head=8, d_ffn=32, vocab=24):
    """Parameters of a small decoder with stacked layers."""
    L, D, N, H, F, V = n_layers, d_model, n_heads, d_head, d_ffn, vocab
    layers = {
        "attention": {
            "query": Param((L, D, N, H), ("layers", "embed", "heads", "head"), NORMAL, ("embed",)),
            "out": Param((L, N, H, D), ("layers", "heads", "head", "embed"), NORMAL, ("heads", "head")),
        },
        "mlp": {
            "up": Param((L, D, F), ("layers", "embed", "ffn"), NORMAL, ("embed",)),
            "down": Param((L, F, D), ("layers", "ffn", "embed"), NORMAL, ("ffn",)),
            "bias": Param((L, F), ("layers", "ffn"), Init("zeros")),
        },
        "norm": Param((L, D), ("layers", "embed"), Init("ones")),
    }
    return {
        "embedding": Param((V, D), ("vocab", "embed"), NORMAL, ("vocab",)),
        "layers": [layers],
        "head": Param((D, V), ("embed", "vocab"), NORMAL, ("embed",)),
    }


def gradients_like(params, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)


def toy_params(specs=None, seed=0):
    """Initial values drawn by numpy: nothing to compile."""
    rng = np.random.default_rng(seed)
    draw = lambda p: jnp.asarray(rng.normal(size=p.shape) * (p.init.std or 0.1), jnp.float32)
    return map_params(draw, specs or toy_specs())


def runner(optimizer, specs, schedule=full_rate):
    """(params, gradients) -> parameters and state after one update for each of the gradients."""
    tx = optimizer.build(specs, schedule)

    @jax.jit
    def step(gradient, state, params):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    def run_all(params, gradients):
        state = tx.init(params)
        for gradient in gradients:
            params, state = step(gradient, state, params)
        return params, state

    return run_all


def run(optimizer, specs, params, gradients, *, schedule=full_rate):
    """`runner`, used once."""
    return runner(optimizer, specs, schedule)(params, gradients)


def max_difference(a, b):
    return max(
        float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
