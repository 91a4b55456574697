"""Every variant of a kernel computes the same values and the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.layers import cpu, scores
from lmx.layers.activations import ACTIVATIONS
from lmx.layers.kernels import plain_einsum
from tests.support import kernels_config

SPECS = {
    "btd,dnh->btnh": ((2, 6, 16), (16, 4, 8)),
    "btnh,nhd->btd": ((2, 6, 4, 8), (4, 8, 16)),
    "btd,df->btf": ((2, 6, 16), (16, 24)),
    "btf,fd->btd": ((1, 5, 24), (24, 16)),
    "btd,de->bte": ((3, 1, 16), (16, 1)),
    "ebd,edf->ebf": ((3, 4, 16), (3, 16, 8)),
}


def close(got, want, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_einsum(spec, dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x, w = (jax.random.normal(k, shape) for k, shape in zip(keys[:2], SPECS[spec], strict=True))
    g = jax.random.normal(keys[2], jax.eval_shape(lambda: plain_einsum(spec, x, w)).shape)

    def both(einsum, dtype):
        y, pull = jax.vjp(lambda x, w: einsum(spec, x, w), x.astype(dtype), w)
        assert y.dtype == dtype
        return y, pull(g.astype(dtype))

    got = jax.jit(lambda: both(cpu.einsum, dtype))()
    assert got[1][1].dtype == jnp.float32
    close(got, jax.jit(lambda: both(plain_einsum, jnp.float32))(), 1e-5 if dtype == jnp.float32 else 0.15)


def test_einsums_are_einsum_of_each():
    specs = ("btd,dnh->btnh", "btd,df->btf", "btd,dkh->btkh")
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    shapes = ((8, 4, 3), (8, 7), (8, 2, 3))
    weights = tuple(jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))

    def both(einsums):
        ys, pull = jax.vjp(lambda x, ws: tuple(einsums(specs, x, ws)), x, weights)
        return ys, pull(jax.tree.map(jnp.cos, ys))

    each = lambda specs, x, ws: [plain_einsum(spec, x, w) for spec, w in zip(specs, ws, strict=True)]
    close(jax.jit(lambda: both(cpu.einsums))(), jax.jit(lambda: both(each))(), 1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    x = jnp.linspace(-9, 9, 101)
    got = jax.jit(jax.vmap(jax.value_and_grad(cpu.CPU_ACTIVATIONS[name])))(x)
    close(got, jax.vmap(jax.value_and_grad(ACTIVATIONS[name]))(x), 1e-5)
    assert cpu.CPU_ACTIVATIONS[name](x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def attention_example(t, n=4, k=2, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(t), 4)
    shapes = [(2, t, n, 8), (2, t, k, 8), (2, t, k, 8), (2, t, n, 8)]
    q, k, v, g = (
        jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes, strict=True)
    )
    segments = jnp.sort(jax.random.randint(keys[0], (2, t), 0, 3), axis=1)  # 0 is padding
    return q, k, v, g, segments


def values_and_gradients(attention, example, *, segments, **knobs):
    q, k, v, g, ids = example
    masks = {"q_segments_BT": ids, "k_segments_BS": ids} if segments else {}
    o, pull = jax.vjp(lambda q, k, v: attention(q, k, v, scale=0.3, **knobs, **masks), q, k, v)
    return o, pull(g)


VARIANTS = {"blockwise": scores.blockwise, "cpu": cpu.attention}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize(
    ("t", "window", "softcap", "segments"),
    [
        (12, None, None, False),
        (13, None, None, True),
        (13, 4, None, False),
        (7, 3, 2.0, True),
        (2, None, 2.0, False),
    ],
)
def test_attention(variant, blocks, t, window, softcap, segments):
    example = attention_example(t)
    knobs = {"window": window, "softcap": softcap, "segments": segments}
    got = jax.jit(lambda: values_and_gradients(VARIANTS[variant], example, blocks=blocks, **knobs))()
    close(got, jax.jit(lambda: values_and_gradients(scores.dot_product, example, **knobs))(), 1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("n", "k"), [(4, 4), (4, 1)])
def test_attention_heads_and_bfloat16(variant, n, k):
    knobs = {"window": None, "softcap": None, "segments": False}
    exact = attention_example(16, n, k)
    want = jax.jit(lambda: values_and_gradients(scores.dot_product, exact, **knobs))()
    close(jax.jit(lambda: values_and_gradients(VARIANTS[variant], exact, blocks=2, **knobs))(), want, 1e-5)
    rounded = attention_example(16, n, k, jnp.bfloat16)
    got = jax.jit(lambda: values_and_gradients(VARIANTS[variant], rounded, blocks=2, **knobs))()
    assert got[0].dtype == jnp.bfloat16
    close(got, want, 0.1)


def test_dot_product_is_softmax_attention():
    q, k, v, _, _ = attention_example(9, 2, 2)
    s = np.einsum("btnh,bsnh->bnts", q, k) * 0.3
    s = np.where(np.tril(np.ones((9, 9), bool)), s, -np.inf)
    p = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    got = scores.dot_product(q, k, v, window=None, softcap=None, scale=0.3)
    close(got, np.einsum("bnts,bsnh->btnh", p, v), 1e-5)


@pytest.mark.parametrize("variant", [*VARIANTS, "dot_product"])
def test_packed_documents_are_as_alone_and_padding_is_zero(variant):
    q, k, v, _, _ = attention_example(10)
    ids = jnp.array([[1] * 4 + [2] * 4 + [0] * 2] * 2)
    function = {**VARIANTS, "dot_product": scores.dot_product}[variant]
    knobs = {"window": None, "softcap": None, "scale": 0.3} | (
        {} if variant == "dot_product" else {"blocks": 3}
    )
    packed = function(q, k, v, q_segments_BT=ids, k_segments_BS=ids, **knobs)
    alone = function(q[:, 4:8], k[:, 4:8], v[:, 4:8], **knobs)
    close(packed[:, 4:8], alone, 1e-6)
    assert not np.any(packed[:, 8:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_positions_are_what_hides(variant):
    """Queries in the middle of a longer row of keys, as with a cache: equal to the same rows of the whole."""
    q, k, v, _, _ = attention_example(12)
    knobs = {"window": 5, "softcap": None, "scale": 0.3}
    whole = scores.dot_product(q, k, v, **knobs)
    places = jnp.arange(12)[None].repeat(2, 0)
    part = VARIANTS[variant](
        q[:, 5:8], k, v, q_positions_BT=places[:, 5:8], k_positions_BS=places, blocks=2, **knobs
    )
    close(part, whole[:, 5:8], 1e-6)


def test_auto_is_cpu_on_one_cpu_device_only():
    config = kernels_config("auto")
    assert config.build("cpu").activation is cpu.CPU_ACTIVATIONS
    assert config.build("cpu", n_devices=8).activation is ACTIVATIONS
    assert config.build("tpu").activation is ACTIVATIONS
    assert config.build("gpu").activation is ACTIVATIONS
