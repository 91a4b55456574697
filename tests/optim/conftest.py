from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from omegaconf import OmegaConf

from lmx.optim import Optimizer, Schedule
from lmx.params import Init, Param, init

CONF = Path(__file__).parents[2] / "conf"
NORMAL = Init("normal", 0.3)


def optimizer_config(name, **changes):
    """conf/optimizer/NAME.yaml with some keys changed, as a configuration object."""
    values = OmegaConf.to_container(OmegaConf.load(CONF / "optimizer" / f"{name}.yaml"))
    return Optimizer.model_validate(values | changes)


def schedule_config(name, **changes):
    values = OmegaConf.to_container(OmegaConf.load(CONF / "schedule" / f"{name}.yaml"))
    return Schedule.model_validate(values | changes)


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


@pytest.fixture
def specs():
    return toy_specs()


@pytest.fixture
def params(specs):
    return init(specs, jax.random.key(0), jnp.dtype("float32"))


def gradients_like(params, seed=1):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return tree.unflatten([jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)])
