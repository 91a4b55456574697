"""Matrices in 8-bit floats with a factor a block, ragged at the ends, read by rows."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from lmx.config.errors import RequestError
from lmx.io.fp8 import join_scales
from lmx.io.safetensors import Written, find_tensors, write_tensors

SETTINGS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [4, 6]}


def write(folder, arrays):
    tensors = [Written(name, a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()]
    write_tensors(folder, tensors, shard_bytes=1 << 20)
    return find_tensors(folder)


def made(rows, columns, block=(4, 6)):
    rng = np.random.default_rng(rows * 100 + columns)
    values = rng.normal(0, 20, (rows, columns)).astype(ml_dtypes.float8_e4m3fn)
    factors = rng.uniform(0.01, 2, (-(-rows // block[0]), -(-columns // block[1]))).astype(np.float32)
    return values, factors


@pytest.mark.parametrize(("rows", "columns"), [(8, 12), (9, 13), (3, 5), (7, 6), (4, 20)])
def test_every_span_of_rows(tmp_path, rows, columns):
    values, factors = made(rows, columns)
    entries = write(
        tmp_path, {"x.weight": values, "x.weight_scale_inv": factors, "y": np.ones(3, np.float32)}
    )
    found = join_scales(entries, SETTINGS, tmp_path)
    assert sorted(found) == ["x.weight", "y"]
    assert found["x.weight"].shape == (rows, columns)
    want = np.array(
        [[np.float32(values[i, j]) * factors[i // 4, j // 6] for j in range(columns)] for i in range(rows)]
    )
    for start in range(rows):
        for stop in range(start + 1, rows + 1):
            np.testing.assert_array_equal(found["x.weight"].rows(start, stop), want[start:stop])


def test_what_does_not_fit_is_refused(tmp_path):
    values, factors = made(9, 13)
    entries = write(tmp_path, {"x.weight": values, "x.weight_scale_inv": factors})
    for more, told in (
        ({"weight_block_size": [8, 6]}, "makes it"),
        ({"weight_block_size": None}, "weight_block_size=null"),
        ({"weight_block_size": [128]}, "weight_block_size"),
        ({"fmt": "e5m2"}, "fmt"),
        ({"activation_scheme": "static"}, "activation_scheme"),
    ):
        with pytest.raises(RequestError, match=told):
            join_scales(entries, SETTINGS | more, tmp_path)
    del entries["x.weight"]
    with pytest.raises(RequestError, match="has no matrix"):
        join_scales(entries, SETTINGS, tmp_path)
