"""Initial values: of the right size, each parameter's its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.params import _PIECE, _SMALL, Init, Param, init

KEY = jax.random.key(3)


def matrix(rows: int, columns: int, kind: str = "normal", std: float = 0.5) -> Param:
    return Param((rows, columns), ("embed", "ffn"), Init(kind, std), ("embed",))


def draw(**specs: Param) -> dict[str, np.ndarray]:
    return jax.tree.map(np.asarray, init(specs, KEY, jnp.float32))


@pytest.mark.parametrize("kind", ["normal", "truncated_normal"])
@pytest.mark.parametrize("rows", [200, _SMALL // 512 + 1], ids=["in pieces", "at once"])
def test_values_have_the_deviation_asked_for_and_none_comes_twice(kind, rows):
    x = draw(w=matrix(rows, 512, kind))["w"]
    assert abs(x.mean()) < 0.01
    assert abs(x.std() / 0.5 - 1) < 0.01
    assert len(np.unique(x)) > 0.9 * x.size
    assert (np.abs(x).max() < 3.05 * 0.5) == (kind == "truncated_normal")


def test_a_parameter_does_not_depend_on_the_others():
    """Neither on their number, nor on their kinds and sizes."""
    alone = draw(b=matrix(100, 300))["b"]
    among = draw(a=matrix(7, _PIECE), b=matrix(100, 300), c=matrix(64, 64, "truncated_normal"))
    np.testing.assert_array_equal(alone, among["b"])
    assert not np.array_equal(draw(c=matrix(100, 300))["c"], alone)


def test_scales_and_biases_start_as_they_are_said_to():
    x = draw(scale=Param((4,), ("norm",), Init("ones")), bias=Param((4,), ("norm",), Init("zeros")))
    assert (x["scale"] == 1).all()
    assert (x["bias"] == 0).all()


def test_an_unknown_initialiser_is_named():
    with pytest.raises(ValueError, match="unknown initialiser 'uniform'"):
        draw(w=matrix(2, 2, "uniform"))
