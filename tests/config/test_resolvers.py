import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lmx.config import resolvers


def resolved(text: str, **values):
    resolvers.register()
    return OmegaConf.create({**values, "x": text}).x


def test_arithmetic_in_yaml():
    assert resolved("${mul:4,${d}}", d=192) == 768
    assert resolved("${div:${d},6}", d=192) == 32
    assert resolved("${add:${d},1,2}", d=1) == 4
    assert resolved("${sub:3,5}") == -2
    assert resolved("${ratio:1,4}") == 0.25
    assert resolved("${ceil_to:50257,128}") == 50304
    assert resolved("${round_to:100,8}") == 104
    assert resolved("${pow:2,10}") == 1024
    assert resolved("${sqrt:16}") == 4.0
    assert resolved("${min:3,2}") == 2
    assert resolved("${max:3,2}") == 3
    assert resolved("${if:${flag},1,2}", flag=False) == 2
    assert resolved("${mul:300M,2}") == 600_000_000


def test_mul_stays_whole_where_it_can():
    assert isinstance(resolvers.mul(8, 0.5), int)
    assert resolvers.mul(3, 0.5) == 1.5


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**4))
def test_div_is_exact_or_refused(a, b):
    if a % b == 0:
        assert resolvers.div(a, b) * b == a
    else:
        with pytest.raises(ValueError, match="not a multiple"):
            resolvers.div(a, b)


@given(st.integers(0, 10**7), st.integers(1, 10**4))
def test_rounding_lands_on_the_nearest_multiple(value, step):
    up, near = resolvers.ceil_to(value, step), resolvers.round_to(value, step)
    assert up % step == near % step == 0
    assert value <= up < value + step
    assert abs(near - value) * 2 <= step


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resolvers.div(1, 0), "divided by 0"),
        (lambda: resolvers.add(1), "at least 2"),
        (lambda: resolvers.mul(2, "a"), "needs numbers, got 'a'"),
        (lambda: resolvers.square_root(-1), "negative"),
        (lambda: resolvers.choose("yes", 1, 2), "true or false"),
        (lambda: resolvers.ceil_to(3, 0), "positive multiple"),
    ],
)
def test_what_cannot_be_computed_says_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_token_is_the_same_throughout_one_configuration():
    resolvers.register()
    cfg = OmegaConf.create({"a": "${token:6}", "b": "${token:6}"})
    assert cfg.a == cfg.b
    assert len(cfg.a) == 6
    assert OmegaConf.create({"a": "${token:6}"}).a != cfg.a
    assert math.isfinite(int(cfg.a, 16))
