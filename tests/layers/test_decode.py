"""One query a row: the CPU's own forms give what the plain ones give."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from lmx.infer.sampling import _best
from lmx.layers import cpu, decode, scores


@pytest.mark.parametrize(
    "knobs",
    [
        {"window": None, "softcap": None},
        {"window": 3, "softcap": 5.0},
        {"window": None, "softcap": None, "sinks": True},
        {"window": None, "softcap": None, "segments": True},
    ],
    ids=["plain", "window", "sinks", "segments"],
)
def test_attention_is_the_dot_product(knobs):
    rng = np.random.default_rng(0)
    knobs = dict(knobs)
    make = lambda *shape: jnp.asarray(rng.normal(size=shape).astype("f"))
    q, k, v = make(3, 1, 6, 8), make(3, 11, 2, 8), make(3, 11, 2, 5)
    masks = {
        "q_positions_BT": jnp.asarray([[10], [4], [0]]),
        "k_positions_BS": jnp.broadcast_to(jnp.arange(11), (3, 11)),
        "q_segments_BT": None,
        "k_segments_BS": None,
        "sinks_N": make(6) if knobs.pop("sinks", False) else None,
    }
    if knobs.pop("segments", False):
        masks |= {
            "q_segments_BT": jnp.asarray([[2], [1], [0]]),
            "k_segments_BS": masks["k_positions_BS"] // 4,
        }
    found = decode.attention(q, k, v, **masks, **knobs, scale=0.3)
    wanted = scores.dot_product(q, k, v, **masks, **knobs, scale=0.3)
    assert found.shape == (3, 1, 6, 5)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    through = cpu.attention(q, k, v, **masks, **knobs, scale=0.3, blocks=2)
    np.testing.assert_array_equal(through, found)


@pytest.mark.parametrize("width", [13, 256, 1024, 1000])
def test_the_best_is_the_first_of_the_largest(width):
    x = np.random.default_rng(2).integers(0, 40, (4, width)).astype("f")
    x[3] = -np.inf
    x[3, width // 2] = 0.0
    np.testing.assert_array_equal(_best(jnp.asarray(x)), x.argmax(-1))
