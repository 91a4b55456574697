"""Rematerialisation by name and by tensor: what is recomputed, what goes to the host, and that nothing else changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from lmx import params as param_tree
from lmx.models.config import TENSORS
from tests.support import build_model, model_config

SMALL = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 64}
SMALL |= {"mlp.kind": "gated", "initializer.residual": "plain", "layer_loop": "scan", "remat": "none"}
TOKENS = jnp.arange(24).reshape(2, 12)


def loss_of(changes, option="tiny"):
    model = build_model(model_config(option, SMALL | changes))
    params = param_tree.init(model.specs, jax.random.key(0), jnp.float32)
    weight = jnp.arange(32.0)
    return lambda p: jnp.mean(jnp.square(model.forward(p, TOKENS).hidden) * weight), params


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from equations(getattr(inner, "jaxpr", inner))


def products(changes):
    loss, params = loss_of(changes)
    found = equations(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
    return sum(equation.primitive.name == "dot_general" for equation in found)


def test_every_tensor_that_can_be_named_is_there():
    latent = {"attention.latent": {"query_rank": 8, "key_value_rank": 8, "rope_dim": 4, "value_dim": 8}}
    latent["attention.latent"]["epsilon"] = 1e-6
    named = set()
    for changes in ({}, latent | {"n_kv_heads": 4, "attention.qk_norm": "none"}):
        loss, params = loss_of(changes)
        found = equations(jax.make_jaxpr(loss)(params).jaxpr)
        named |= {equation.params["name"] for equation in found if equation.primitive.name == "name"}
    assert named == set(TENSORS)


def test_products_are_computed_again_unless_their_tensor_is_saved():
    once = products({})
    full = products({"remat": "full"})
    # A block has query, key, value, two of attention, out, gate and up to compute again; nothing needs down again.
    assert full - once == 8
    assert products({"remat": {"query": "save"}}) == full - 1
    assert products({"remat": {"query": "save", "key": "save", "value": "remat"}}) == full - 2
    assert products({"remat": {"mlp_gate": "save", "mlp_up": "save"}}) == full - 2
    assert products({"remat": {"mlp_gate": "offload", "attention_out": "save"}}) == full - 2
    assert products({"remat": "block_io"}) == products(
        {"remat": {"attention_out": "save", "mlp_out": "save"}}
    )


@pytest.mark.parametrize(
    ("remat", "loop"),
    [
        ("attention", "scan"),
        ({"query": "offload", "block_input": "offload", "attention_out": "save"}, "scan"),
        ({"query": "offload", "mlp_hidden": "remat"}, "unroll"),
    ],
)
def test_value_and_gradient_stay(remat, loop):
    def run(changes):
        loss, params = loss_of(changes)
        return jax.jit(jax.value_and_grad(loss))(params)

    expected, got = run({}), run({"remat": remat, "layer_loop": loop})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), expected, got)


def test_offloaded_tensors_go_to_the_host():
    """To pinned memory forward and back again, once for all layers of the scan."""

    def moves(remat):
        loss, params = loss_of({"remat": remat})
        found = equations(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
        return [str(e.params["devices"]) for e in found if e.primitive.name == "device_put"]

    there, back = moves({"query": "offload"})
    assert "Host" in there
    assert "Device" in back
    assert moves({"query": "save"}) == []


@pytest.mark.parametrize(
    ("remat", "words"),
    [
        ({"qurey": "save"}, ("qurey", "the nearest is query", "attention_context")),
        ({"query": "keep"}, ("save", "remat", "offload")),
        ({"block_input": "remat"}, ("block_input",)),
        ("some", ("none", "full", "block_io")),
    ],
)
def test_wrong_values_are_refused(remat, words):
    with pytest.raises(ValidationError) as caught:
        model_config("tiny", {"remat": remat})
    for word in words:
        assert word in str(caught.value)


def test_a_tensor_that_the_model_lacks_is_a_contradiction():
    config = model_config("gpt2", {"remat": {"mlp_gate": "save", "query": "save"}})
    (found,) = config.problems()
    assert found[0] == "model.remat"
    assert "mlp_gate" in found[1]
    assert found[2] == "'model.remat={query: save}'"
