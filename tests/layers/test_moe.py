"""Mixtures of experts: choices, products, statistics."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import params as param_tree
from lmx.layers import balance, grouped
from lmx.layers.moe import moe_specs, route
from tests.layers.test_kernels import close
from tests.support import build_model, model_config

MEGABLOX = partial(grouped.megablox, interpret=True)
SIZES = [(1, 2, 4), (7, 1, 3), (40, 2, 3), (64, 3, 8)]


@pytest.mark.parametrize(
    ("way", "m", "choices", "n"),
    [(way, *sizes) for way in (grouped.ragged, grouped.blocks) for sizes in SIZES] + [(MEGABLOX, *SIZES[-1])],
)
def test_each_pair_meets_its_own_expert(way, m, choices, n):
    """Values and gradients of the product, whatever the load; one expert stays without tokens."""
    keys = jax.random.split(jax.random.key(m), 4)
    experts = jnp.argsort(jax.random.uniform(keys[0], (m, n - 1)), axis=1)[:, :choices]
    experts = experts.at[: m // 2].set(jnp.arange(choices))
    x, w = jax.random.normal(keys[1], (m, 6)), jax.random.normal(keys[2], (n, 6, 5))
    g = jax.random.normal(keys[3], (m, choices, 5))

    def product(x, w):
        grouping = way(experts, n)
        np.testing.assert_array_equal(grouping.experts[grouping.rows], experts)
        np.testing.assert_array_equal(
            grouping.tokens[grouping.rows], jnp.arange(m)[:, None].repeat(choices, 1)
        )
        return grouping.product(x[grouping.tokens], w)[grouping.rows]

    got, pull = jax.vjp(product, x, w)
    want, pull_want = jax.vjp(lambda x, w: jnp.einsum("md,mjdf->mjf", x, w[experts]), x, w)
    close((got, pull(g)), (want, pull_want(g)), 1e-4)


@pytest.mark.parametrize("way", [grouped.ragged, grouped.blocks, MEGABLOX])
def test_pairs_that_belong_nowhere_leave_the_others_alone(way):
    """Experts numbered n and above have no weight: what their rows hold reaches no result and no gradient."""
    m, n, keys = 24, 4, jax.random.split(jax.random.key(0), 4)
    experts = jax.random.randint(keys[0], (m, 2), 0, n + 1)
    x, w = jax.random.normal(keys[1], (m, 6)), jax.random.normal(keys[2], (n, 6, 5))
    g, known = jax.random.normal(keys[3], (m, 2, 5)), (experts < n)[..., None]

    def product(x, w):
        grouping = way(experts, n)
        rows = jnp.where((grouping.experts < n)[:, None], x[grouping.tokens], 0)
        y = grouping.product(rows, w).at[grouping.rows].get(mode="clip")
        return jnp.where(known, y, 0)

    def both(f, w, g):
        y, pull = jax.vjp(f, x, w)
        return y, pull(g)

    got = jax.jit(both, static_argnums=0)(product, w, g)
    padded = jnp.concatenate([w, jnp.zeros((1, 6, 5))])
    dense = lambda x, w: jnp.einsum("md,mjdf->mjf", x, w[experts])
    y, (dx, dw) = jax.jit(both, static_argnums=0)(dense, padded, g * known)
    close(got, (y, (dx, dw[:n])), 1e-4)


@pytest.mark.parametrize("way", [grouped.ragged, MEGABLOX])
def test_products_can_be_mapped(way):
    """As in the stages of a pipeline."""
    keys = jax.random.split(jax.random.key(1), 3)
    experts = jax.random.randint(keys[0], (2, 8, 2), 0, 3)
    x, w = jax.random.normal(keys[1], (2, 8, 6)), jax.random.normal(keys[2], (2, 3, 6, 5))

    def f(experts, x, w):
        grouping = way(experts, 3)
        return (grouping.product(x[grouping.tokens], w)[grouping.rows] ** 2).sum()

    one = jax.value_and_grad(f, (1, 2))
    mapped = jax.jit(jax.vmap(one))(experts, x, w)
    each = [jax.jit(one)(*args) for args in zip(experts, x, w, strict=True)]
    close(mapped, jax.tree.map(lambda *parts: jnp.stack(parts), *each), 1e-5)


def choose(logits, **changes):
    """(experts, weights) of these logits; the model is twice as wide as it has experts to let any through."""
    n = logits.shape[1]
    top_k = changes.pop("top_k", 2)
    names = {f"moe.router.{key}": value for key, value in changes.items()}
    sizes = {"n_layers": 1, "d_model": n, "n_heads": 1, "vocab_size": 9, "moe.d_ff": 4}
    config = model_config("mixtral_8x7b", sizes | {"moe.n_experts": n, "moe.top_k": top_k} | names)
    params = {"weight": jnp.eye(n), "bias": jnp.zeros(n), "choice_bias": jnp.zeros(n)}
    params["choice_bias"] = params["choice_bias"].at[n - 1].set(9.0)
    found = route(jnp.asarray(logits, jnp.float32), params, config.moe)
    return np.asarray(found.experts), np.asarray(found.weights)


LOGITS = np.array([[0.5, 2.0, -1.0, 1.0, 0.0, 1.5]])


def test_renormalised_softmax_is_a_softmax_over_the_chosen():
    experts, weights = choose(LOGITS)
    assert experts.tolist() == [[1, 5]]
    np.testing.assert_allclose(weights, [[np.exp(2.0), np.exp(1.5)] / (np.exp(2.0) + np.exp(1.5))], rtol=1e-6)


def test_scores_may_stay_as_they_are():
    _, weights = choose(LOGITS, normalise=False, scale=3.0)
    np.testing.assert_allclose(weights, 3 * np.exp([[2.0, 1.5]]) / np.exp(LOGITS).sum(), rtol=1e-6)


def test_a_bias_for_the_choice_changes_no_weight():
    experts, weights = choose(-LOGITS, scores="sigmoid", bias="choice", normalise=False)
    assert experts.tolist() == [[5, 2]]
    np.testing.assert_allclose(weights, 1 / (1 + np.exp([[1.5, -1.0]])), rtol=1e-6)


@pytest.mark.parametrize(("score", "chosen"), [("max", [0, 1]), ("top2_sum", [2, 3])])
def test_groups_limit_the_choice(score, chosen):
    """The best single expert, or the best pair, opens a group."""
    logits = np.array([[3.0, -5.0, 2.0, 2.5, -1.0, -1.0]])
    groups = {"n": 3, "chosen": 1, "score": score}
    experts, _ = choose(logits, scores="sigmoid", groups=groups)
    assert sorted(experts[0].tolist()) == chosen


def test_load_and_losses_of_an_even_router():
    """A router of zeros scores all alike: the balance loss is its factor, the z-loss its factor x ln(n)^2."""
    changes = {"n_layers": 2, "moe.balance_loss": 0.5, "moe.z_loss": 0.25}
    config = model_config("moe_tiny", changes)
    model = build_model(config)
    params = param_tree.init(model.specs, jax.random.key(0), jnp.float32)
    params["layers"][0]["moe"]["router"]["weight"] *= 0
    segments = jnp.array([[1] * 6 + [0] * 2])
    aux = model.forward(params, jnp.arange(8)[None], segments_BT=segments).aux
    # All take the first two of eight; padding counts for nothing.
    assert aux["count/choices"].tolist() == [[6, 6, 0, 0, 0, 0, 0, 0]] * 2
    np.testing.assert_allclose(aux["loss/balance"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(aux["loss/router_z"], 0.25 * np.log(8) ** 2, rtol=1e-6)
    shown = balance.statistics({"choices": aux["count/choices"]})
    assert (float(shown["experts/max_load"]), float(shown["experts/min_load"])) == (4, 0)
    np.testing.assert_allclose(shown["experts/load"].sum(1), 8, rtol=1e-6)


def test_experts_are_stacked_as_independent_matrices():
    config = model_config("moe_tiny")
    init = lambda inputs: None
    specs = moe_specs(config, 4, init, init)
    assert specs["experts"]["up"].axes == ("layers", "experts", "expert_embed", "expert_ffn")
    assert specs["router"]["weight"].axes == ("layers", "embed", "router")
