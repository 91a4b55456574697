"""MXFP4: every code and exponent, and pairs of tensors as one."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from lmx.config.errors import RequestError
from lmx.io.mxfp4 import VALUES, decode, join_blocks
from lmx.io.safetensors import Written, find_tensors, write_tensors


def test_values_are_the_formats_own():
    """The codes agree with ml_dtypes' float4_e2m1fn."""
    codes = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn)
    np.testing.assert_array_equal(VALUES, codes.astype(np.float32))


def test_decode():
    """The lower half of a byte comes first; exponents are biased by 127."""
    blocks = np.zeros((1, 2, 16), np.uint8)
    blocks[0, 0, 0], blocks[0, 1, 15] = 0x21, 0xF2
    found = decode(blocks, np.array([[128, 125]], np.uint8))
    assert found.shape == (1, 64)
    assert found[0, :2].tolist() == [1.0, 2.0]
    assert found[0, 62:].tolist() == [0.25, -1.5]
    assert np.count_nonzero(found) == 4


def test_pairs_are_read_as_one_tensor(tmp_path):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (3, 6, 2, 16), np.uint8)
    scales = rng.integers(120, 130, (3, 6, 2), np.uint8)
    arrays = {"x_blocks": blocks, "x_scales": scales, "other": np.ones((2, 2), np.float32)}
    write_tensors(
        tmp_path,
        [Written(name, a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()],
        shard_bytes=1 << 20,
    )
    entries = find_tensors(tmp_path)
    found = join_blocks(entries, {}, tmp_path)
    assert sorted(found) == ["other", "x"]
    assert found["x"].shape == (3, 64, 6)
    want = decode(blocks, scales).swapaxes(1, 2)
    np.testing.assert_array_equal(found["x"].rows(1, 3).astype(np.float32), want[1:])
    with pytest.raises(RequestError, match="x_scales"):
        join_blocks({name: e for name, e in entries.items() if name != "x_scales"}, {}, tmp_path)
