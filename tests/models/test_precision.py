"""Which weights are in 8 bits, and that a model so trained stays close to one that is not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf

from lmx import params as param_tree
from lmx.layers import Precision
from lmx.models.precision import formats_of
from tests.support import ONE_DEVICE, kernels_config, model_config, read_option

SMALL = {"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 32}
SMALL |= {"initializer.residual": "plain", "layer_loop": "scan"}


def precision(products):
    return Precision.model_validate({"products": products})


def option(name):
    return Precision.model_validate(OmegaConf.to_container(OmegaConf.create(read_option("precision", name))))


def build(config, chosen):
    kernels = kernels_config("auto").build("cpu")._replace(precision=chosen)
    return config.build(compute_dtype=jnp.dtype("bfloat16"), kernels=kernels, shard=ONE_DEVICE)


def test_patterns_choose_weights_and_the_first_counts():
    specs = build(model_config("tiny", SMALL), None).specs
    assert formats_of(None, specs) == formats_of(option("none"), specs) == {}
    chosen = {
        "value": {"path": "layers.*.attention.value", "format": "fp8"},
        "attention": {"path": "layers.*.attention.*", "format": "int8"},
    }
    found = formats_of(precision(chosen), specs)
    assert found == {
        "layers.0.attention.value": "fp8",
        "layers.0.attention.query": "int8",
        "layers.0.attention.key": "int8",
        "layers.0.attention.out": "int8",
    }
    assert set(formats_of(option("int8"), specs).values()) == {"int8"}


@pytest.mark.parametrize("path", ["layers.*.mpl.*", "embedding.*", "head", "layers.*.attention_norm.*"])
def test_a_pattern_that_fits_nothing_is_an_error(path):
    with pytest.raises(ValueError, match="fits no weight") as caught:
        build(model_config("tiny", SMALL), precision({"mine": {"path": path, "format": "int8"}}))
    assert f"precision.products.mine.path={path}" in str(caught.value)
    assert "layers.0." in str(caught.value)


@pytest.mark.parametrize("path", ["layers.*.mlp.*", "layers.*.moe.*", "layers.*"])
def test_experts_are_refused_by_name(path):
    sizes = {"n_layers": 1, "d_model": 32, "n_heads": 2, "vocab_size": 32, "moe.shared_d_ff": 16}
    config = model_config("moe_tiny", sizes)
    with pytest.raises(ValueError, match="products with experts") as caught:
        build(config, precision({"mine": {"path": path, "format": "int8"}}))
    assert f"precision.products.mine.path={path}" in str(caught.value)
    assert "~precision.products.mine" in str(caught.value)
    assert "layers.0.moe.experts." in str(caught.value)
    build(config, precision({"mine": {"path": "layers.*.moe.shared.*", "format": "int8"}}))


def losses(chosen, steps=30):
    """Of a model that learns to count."""
    model = build(model_config("tiny", SMALL), option(chosen))
    params = param_tree.init(model.specs, jax.random.key(0), jnp.float32)
    tokens = (jnp.arange(17)[None] + jnp.arange(8)[:, None] * 3) % 32

    def loss(p):
        hidden = model.forward(p, tokens[:, :-1]).hidden
        logits = (hidden @ model.head(p).weight.T).astype(jnp.float32)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1).mean()

    @jax.jit
    def step(p):
        value, grads = jax.value_and_grad(loss)(p)
        return value, jax.tree.map(lambda w, g: w - 0.3 * g / (jnp.linalg.norm(g) + 1e-6), p, grads)

    found = []
    for _ in range(steps):
        value, params = step(params)
        found.append(float(value))
    return np.array(found)


def test_loss_stays_close_to_that_of_bfloat16():
    exact = losses("none")
    assert exact[-1] < 0.5 * exact[0]
    for name in ("int8", "fp8"):
        got = losses(name)
        assert np.abs(got - exact).max() < 0.1 * exact[0], name
        assert np.abs(got - exact).max() > 0, name
