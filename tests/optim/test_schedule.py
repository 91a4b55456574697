"""Schedules: exact values, bounds, continuity, lengths."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lmx.optim.schedule_config import parse_span, span_steps
from tests.optim.toy import options, schedule_config


def values(config, total, tokens_per_step=1):
    """The factor at steps 0..total (one past the last); always computed at 301 steps, so compiled once."""
    factor = config.build(total_steps=total, tokens_per_step=tokens_per_step)
    return np.asarray(factor(jnp.arange(301, dtype=jnp.int32)), np.float64)[: total + 1]


def test_a_schedule_can_be_compiled():
    factor = schedule_config("wsd").build(total_steps=100, tokens_per_step=1)
    np.testing.assert_allclose(jax.jit(factor)(jnp.int32(90)), factor(90))


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "wsd", "inverse_sqrt"])
def test_numpy_computes_the_same_curve(kind):
    factor = schedule_config(kind).build(total_steps=300, tokens_per_step=1)
    got = factor(np.arange(301))
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, factor(jnp.arange(301, dtype=jnp.int32)), rtol=1e-5, atol=1e-7)


def test_cosine_is_the_closed_form():
    total, warmup, final = 200, 20, 0.1
    got = values(schedule_config("cosine", warmup=warmup, final_factor=final), total)
    for t in range(total + 1):
        cosine = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (t - warmup) / (total - warmup)))
        assert got[t] == pytest.approx((t + 1) / (warmup + 1) if t < warmup else cosine, abs=1e-6)
    assert got[warmup] == 1
    assert got[total] == pytest.approx(final)


def test_linear_is_straight():
    got = values(schedule_config("linear", warmup=0, final_factor=0.2), 10)
    np.testing.assert_allclose(got, np.linspace(1, 0.2, 11), atol=1e-6)


@pytest.mark.parametrize("shape", ["linear", "cosine", "sqrt", "square", "exponential"])
def test_wsd_decays_from_exactly_where_its_decay_begins(shape):
    config = schedule_config("wsd", warmup=10, decay=25, decay_shape=shape, final_factor=0.05)
    got = values(config, 100)
    assert (got[10:76] == 1).all()
    assert (np.diff(got[75:]) < 0).all()
    assert got[100] == pytest.approx(0.05, abs=1e-6)
    p = 10 / 25
    left = {
        "linear": 1 - p,
        "cosine": (1 + math.cos(math.pi * p)) / 2,
        "sqrt": 1 - math.sqrt(p),
        "square": 1 - p * p,
        "exponential": (0.05**p - 0.05) / 0.95,
    }
    assert got[85] == pytest.approx(0.05 + 0.95 * left[shape], abs=1e-6)


def test_inverse_sqrt_is_that_after_the_warmup_and_ends_at_the_final_factor():
    got = values(schedule_config("inverse_sqrt", warmup=9, decay=20, final_factor=0.0), 120)
    t = np.arange(9, 101)
    np.testing.assert_allclose(got[9:101], np.sqrt(10 / (t + 1)), rtol=1e-6)
    assert got[120] == 0
    np.testing.assert_allclose(
        values(schedule_config("inverse_sqrt", warmup=9, decay=0), 50)[50], (10 / 51) ** 0.5
    )


def test_an_exponential_decay_to_nothing_is_refused():
    config = schedule_config("wsd", decay_shape="exponential", final_factor=0.0)
    with pytest.raises(ValueError, match=r"schedule.final_factor=0; set 0.01"):
        config.build(total_steps=10, tokens_per_step=1)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(options("schedule")), total=st.integers(1, 300))
def test_every_schedule_is_bounded_and_continuous(data, name, total):
    warmup = data.draw(st.integers(0, total))
    rest = total - warmup
    changes = {"warmup": warmup}
    decay = rest
    if name != "constant":
        changes["final_factor"] = data.draw(st.floats(0, 1))
    if name in ("wsd", "inverse_sqrt"):
        decay = changes["decay"] = data.draw(st.integers(0, rest))
        changes["decay_shape"] = data.draw(st.sampled_from(["linear", "cosine", "square"]))
    got = values(schedule_config(name, **changes), total)
    assert np.isfinite(got).all()
    assert (got <= 1 + 1e-6).all()
    assert (got > 0).all() or changes.get("final_factor", 1) < 1e-6
    rising = np.diff(got[: warmup + 1])
    assert (rising > 0).all()
    if name != "inverse_sqrt":  # which may rise to its final factor
        assert (np.diff(got[warmup:]) <= 1e-6).all()
    # No step is larger than that of the steepest part.
    steepest = max(1 / (warmup + 1), 2 / max(decay, 1), 0.3 if name == "inverse_sqrt" else 0)
    assert np.abs(np.diff(got)).max() <= steepest + 1e-5


@given(step=st.integers(0, 2**31 - 2))
@settings(max_examples=30, deadline=None)
def test_steps_beyond_the_run_keep_the_final_factor(step):
    factor = schedule_config("cosine", warmup=5, final_factor=0.25).build(total_steps=50, tokens_per_step=1)
    assert float(factor(jnp.int32(max(step, 50)))) == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(
    ("written", "steps"),
    [(100, 100), ("100", 100), ("1e2", 100), (1e2, 100), ("100 steps", 100), (0, 0), (0.02, 20), ("0.02", 20)]
    + [
        ("2%", 20),
        ("100%", 1000),
        ("20k tokens", 20),
        ("20_000 tokens", 20),
        ("1 token", 1),
        (1e-4, 1),
        (1, 1),
    ],
)
def test_lengths_in_steps_fractions_and_tokens(written, steps):
    assert span_steps(parse_span(written), total_steps=1000, tokens_per_step=1000) == steps


@pytest.mark.parametrize(
    "written", [1.0, "1.0", -1, -0.5, 1.5, "2 days", "tokens", "0.5 tokens", "0%", "200%", True, None]
)
def test_lengths_that_mean_nothing_are_refused(written):
    with pytest.raises(ValidationError) as error:
        schedule_config("wsd", warmup=written)
    assert error.value.errors()[0]["loc"][-1] == "warmup"


def test_the_ambiguous_length_is_explained():
    with pytest.raises(ValidationError, match=r'write 1 or "100%"'):
        schedule_config("wsd", warmup=1.0)


def test_parts_longer_than_the_run_name_keys_and_cure():
    config = schedule_config("wsd", warmup=80, decay=0.5)
    with pytest.raises(
        ValueError, match=r"schedule.warmup=80 \(80 steps\) and schedule.decay=0.5 \(50 steps\) are together"
    ) as error:
        config.build(total_steps=100, tokens_per_step=1)
    assert "the run of 100 steps" in str(error.value)
    with pytest.raises(
        ValueError, match=r"schedule.warmup=20000 tokens \(200 steps\) is longer than the run of 100 steps"
    ):
        schedule_config("cosine", warmup="20k tokens").build(total_steps=100, tokens_per_step=100)
