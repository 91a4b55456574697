"""Token shards: headerless, headed and prepared, with headers, tables and an index that lie."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.data.shards import (
    DOCUMENT,
    INDEX,
    VERSION,
    TokenStore,
    open_prepared,
    open_shard,
    sha256_file,
    write_shard,
)
from lmx.data.tokenizers import ByteTokenizer
from tests.fuzz.support import answer, cases, damaged_bytes, documents_or_bytes

VOCAB = 256
TABLE = "a.documents.npy"


def prepared(folder: Path) -> Path:
    """A directory as `prepare` leaves it."""
    folder.mkdir(exist_ok=True)
    tokens = (np.arange(300) % 200).astype("<u2")
    write_shard(folder / "a.bin", tokens)
    np.save(folder / TABLE, np.array([(1, 100, 0), (2, 200, 5)], DOCUMENT))
    entry = {"file": "a.bin", "tokens": 300, "sha256": sha256_file(folder / "a.bin")}
    index = {
        "version": VERSION,
        "tokenizer": ByteTokenizer(VOCAB).hash,
        "made_with": {"name": "bytes", "overrides": ["tokenizer=bytes"]},
        "vocab_size": VOCAB,
        "max_token": 199,
        "shards": [entry],
    }
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def read(folder: Path) -> int:
    found = open_prepared(folder, ByteTokenizer(VOCAB), vocab_size=VOCAB)
    assert found.documents.dtype == DOCUMENT
    assert int(found.documents["length"].sum(dtype=np.int64)) == len(found.store)
    tokens = found.store.read(0, len(found.store)) if len(found.store) else np.zeros(0)
    assert len(tokens) == len(found.store)
    return len(tokens)


@given(data=st.data(), layout=st.sampled_from(["headed", "uint16", "uint32", "auto"]))
@cases()
def test_a_damaged_shard(data, layout, tmp_path):
    write_shard(tmp_path / "whole.bin", np.arange(40, dtype=data.draw(st.sampled_from(["<u2", "<u4"]))))
    raw = (tmp_path / "whole.bin").read_bytes()
    raw = data.draw(damaged_bytes(raw[:16]) | st.just(raw[:16])) + data.draw(
        damaged_bytes(raw[16:]) | st.just(raw[16:])
    )
    (tmp_path / "a.bin").write_bytes(raw)

    def use() -> None:
        shard = open_shard(str(tmp_path / "a.bin"), layout=layout, vocab_size=VOCAB)
        assert shard.offset + shard.tokens * shard.dtype.itemsize <= len(raw)
        store = TokenStore([shard], vocab_size=VOCAB)
        store.prove()
        assert len(store.read(0, len(store))) == shard.tokens

    answer(use)


@given(count=st.integers(-(2**31), 2**31 - 1))
@cases(0.3)
def test_a_header_that_claims_more_than_there_is(tmp_path, count):
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, count
    (tmp_path / "a.bin").write_bytes(header.tobytes() + bytes(64))
    shard = answer(lambda: open_shard(str(tmp_path / "a.bin"), layout="headed", vocab_size=VOCAB))
    assert shard is None or shard.tokens == count == 32


@given(data=st.data())
@cases()
def test_a_damaged_index(data, tmp_path):
    folder = prepared(tmp_path / "data")
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_bytes(data.draw(documents_or_bytes(index)))
    answer(lambda: read(folder))


@given(data=st.data(), name=st.sampled_from([TABLE, "a.bin"]))
@cases()
def test_a_damaged_file_of_a_prepared_directory(data, name, tmp_path):
    folder = prepared(tmp_path / "data")
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(data.draw(damaged_bytes(raw)))
    answer(lambda: read(folder))


@pytest.mark.parametrize("shape", ["(1099511627776,)", "(2, 1099511627776)", "(-2,)"])
def test_a_table_that_claims_terabytes(tmp_path, shape):
    folder = prepared(tmp_path / "data")
    raw = (folder / TABLE).read_bytes()
    assert b"(2,), }" in raw
    changed = raw.replace(b"(2,), }" + b" " * (len(shape) - 4), f"{shape}, }}".encode())
    (folder / TABLE).write_bytes(changed)
    assert len(changed) == len(raw)
    assert answer(lambda: read(folder)) is None


@pytest.mark.parametrize("name", ["../b.bin", "{above}/b.bin", "x/../../b.bin"])
def test_an_index_names_no_file_elsewhere(tmp_path, name):
    folder = prepared(tmp_path / "data")
    (folder / "x").mkdir()
    for file in ("a.bin", TABLE):
        (tmp_path / file.replace("a.", "b.")).write_bytes((folder / file).read_bytes())
    index = json.loads((folder / INDEX).read_text())
    index["shards"][0]["file"] = name.format(above=tmp_path)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        read(folder)


def test_a_table_of_objects_is_never_unpacked(tmp_path):
    folder = prepared(tmp_path / "data")
    np.save(folder / TABLE, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match=TABLE):
        read(folder)
