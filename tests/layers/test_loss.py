"""The chunked loss equals the textbook one, in value and gradient, in any number of chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.layers.loss import Head, cross_entropy, logits, n_chunks, token_losses

B, T, D, V = 3, 10, 8, 37


def example(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 5)
    hidden = jax.random.normal(keys[0], (B, T, D), dtype)
    weight = jax.random.normal(keys[1], (V, D))
    bias = jax.random.normal(keys[2], (V,))
    targets = jax.random.randint(keys[3], (B, T), 0, V)
    weights = jax.random.uniform(keys[4], (B, T)).at[:, -2:].set(0.0)
    return hidden, weight, bias, targets, weights


def textbook(hidden, weight, bias, targets, weights, softcap, z_loss):
    raw = hidden.astype(jnp.float32) @ weight.T + (0.0 if bias is None else bias)
    capped = raw if softcap is None else softcap * jnp.tanh(raw / softcap)
    log_z = jax.nn.logsumexp(capped, axis=-1)
    nll = log_z - jnp.take_along_axis(capped, targets[..., None], -1)[..., 0]
    return (weights * nll).sum(), z_loss * (weights * log_z**2).sum()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("chunks", [1, 3, 50])
@pytest.mark.parametrize(
    ("softcap", "z_loss", "with_bias"), [(None, 0.0, False), (5.0, 0.1, True), (None, 0.1, True)]
)
def test_equals_textbook(chunks, turned, softcap, z_loss, with_bias):
    hidden, weight, bias, targets, weights = example()
    bias = bias if with_bias else None

    def chunked(hidden, weight, bias):
        head = Head(weight, softcap, bias)
        return (
            0.5
            * cross_entropy(hidden, head, targets, weights, z_loss=z_loss, chunks=chunks, turned=turned).total
        )

    def plain(hidden, weight, bias):
        return 0.5 * sum(textbook(hidden, weight, bias, targets, weights, softcap, z_loss))

    got = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1, 2) if with_bias else (0, 1)))(
        hidden, weight, bias
    )
    want = jax.value_and_grad(plain, argnums=(0, 1, 2) if with_bias else (0, 1))(hidden, weight, bias)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), got, want)


def test_parts_add_up():
    hidden, weight, _, targets, weights = example()
    losses = cross_entropy(hidden, Head(weight), targets, weights, z_loss=0.1, chunks=2)
    nll, z = textbook(hidden, weight, None, targets, weights, None, 0.1)
    np.testing.assert_allclose(losses, (nll + z, nll, z), rtol=1e-5)


def test_micro_batches_of_unequal_weight_add_up_to_the_batch():
    hidden, weight, _, targets, weights = example()

    def total(rows, weight):
        head = Head(weight)
        return cross_entropy(hidden[rows], head, targets[rows], weights[rows], z_loss=0.0, chunks=2).total

    whole = jax.grad(lambda w: total(slice(0, 3), w))(weight)
    parts = jax.grad(lambda w: total(slice(0, 1), w) + total(slice(1, 3), w))(weight)
    np.testing.assert_allclose(whole, parts, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_near_float32():
    hidden, weight, _, targets, weights = example(jnp.bfloat16)

    def total(hidden, weight):
        return cross_entropy(hidden, Head(weight), targets, weights, z_loss=0.0, chunks=2).total

    got = jax.value_and_grad(total, argnums=(0, 1))(hidden, weight)
    want = jax.value_and_grad(total, argnums=(0, 1))(hidden.astype(jnp.float32), weight)
    assert got[1][0].dtype == jnp.bfloat16
    assert got[1][1].dtype == jnp.float32
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0.05, atol=0.1), got, want
    )


@pytest.mark.parametrize("chunks", [1, 3, 7])
def test_token_losses(chunks):
    hidden, weight, bias, targets, weights = example()
    per_token = token_losses(hidden, Head(weight, 5.0, bias), targets, chunks=chunks)
    assert per_token.shape == (B, T)
    nll, _ = textbook(hidden, weight, bias, targets, weights, 5.0, 0.0)
    np.testing.assert_allclose((weights * per_token).sum(), nll, rtol=1e-5)


def test_large_logits_do_not_overflow():
    hidden, weight, _, targets, weights = example()
    losses = cross_entropy(100 * hidden, Head(weight), targets, weights, z_loss=1e-4, chunks=2)
    assert np.isfinite(losses.total)
    assert logits(100 * hidden, Head(weight)).max() > 100


def test_number_of_chunks():
    assert n_chunks(2048, 256, logits_mib=128, n_devices=1) == 1
    assert n_chunks(2048, 50304, logits_mib=128, n_devices=1) == 4
    assert n_chunks(2048, 50304, logits_mib=128, n_devices=8) == 1
