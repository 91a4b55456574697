"""Safetensors: headers that lie, files that are cut, indexes that name what lies elsewhere."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.config.errors import RequestError
from lmx.io.safetensors import INDEX, SINGLE, Written, blocks, find_tensors, read_header, write_tensors
from tests.fuzz.support import answer, cases, damaged, damaged_bytes, documents_or_bytes

TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.weight": np.arange(6).astype(ml_dtypes.bfloat16),
    "c": np.zeros((), np.int64),
    "d": np.zeros((2, 0), np.uint8),
}


def written(folder: Path, shard_bytes: int) -> list[Path]:
    tensors = [Written(n, v.shape, v.dtype, lambda v=v: v) for n, v in TENSORS.items()]
    return write_tensors(folder, tensors, shard_bytes=shard_bytes)


def header(raw: bytes) -> dict:
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length])


def read_all(entries) -> int:
    """Reads every tensor that a header tells of: what it tells must be true of the file."""
    for entry in entries.values():
        read = sum(piece.nbytes for piece in blocks(entry))
        assert read == entry.n_bytes <= entry.file.stat().st_size
    return len(entries)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return written(tmp_path_factory.mktemp("whole"), 10**9)[0].read_bytes()


@given(data=st.data())
@cases()
def test_a_damaged_header_is_refused_or_true(data, whole, tmp_path):
    told = json.dumps(data.draw(damaged(header(whole)))).encode()
    body = whole[8 + struct.unpack("<Q", whole[:8])[0] :]
    length = data.draw(st.just(len(told)) | st.integers(0, 2**64 - 1))
    (tmp_path / SINGLE).write_bytes(struct.pack("<Q", length) + told + body)
    answer(lambda: read_all(read_header(tmp_path / SINGLE)))


@given(data=st.data())
@cases()
def test_damaged_bytes_are_refused_or_true(data, whole, tmp_path):
    (tmp_path / SINGLE).write_bytes(data.draw(damaged_bytes(whole)))
    answer(lambda: read_all(find_tensors(tmp_path)))


@given(data=st.data())
@cases()
def test_a_damaged_index_is_refused_or_true(data, tmp_path):
    files = written(tmp_path, 40)
    assert len(files) > 1
    index = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_bytes(data.draw(documents_or_bytes(index)))
    answer(lambda: read_all(find_tensors(tmp_path)))


@pytest.mark.parametrize(
    "name", ["../elsewhere.safetensors", "{above}/elsewhere.safetensors", "sub/../../elsewhere"]
)
def test_an_index_names_no_file_elsewhere(tmp_path, name):
    folder = tmp_path / "checkpoint"
    (folder / "sub").mkdir(parents=True)
    files = written(folder, 10**9)
    for place in ("elsewhere.safetensors", "elsewhere"):
        (tmp_path / place).write_bytes(files[0].read_bytes())
    files[0].unlink()
    name = name.format(above=tmp_path)
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, name)}))
    with pytest.raises(RequestError, match="outside"):
        find_tensors(folder)


@pytest.mark.parametrize(
    "told",
    [
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [-1, -4], "data_offsets": [0, 16]},
        {"dtype": "U8", "shape": [8], "data_offsets": [-8, 0]},
        {"dtype": "U8", "shape": [4.0], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [4], "data_offsets": [0.0, 4.0]},
        {"dtype": "U8", "shape": [0, 2**40], "data_offsets": [0, 0]},
        {"dtype": "U8", "shape": "4", "data_offsets": [0, 4]},
        {"dtype": ["U8"], "shape": [4], "data_offsets": [0, 4]},
    ],
)
def test_sizes_that_cannot_be_are_refused_before_memory_is_asked_for(tmp_path, told):
    text = json.dumps({"x": told}).encode()
    (tmp_path / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    with pytest.raises(RequestError, match=str(tmp_path)):
        read_header(tmp_path / SINGLE)
