"""Long texts in stretches: nothing lost, nothing twice, and the tokens of the whole."""

from __future__ import annotations

import gzip
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.data.encoding import Recipe
from lmx.data.prepare import prepare
from lmx.data.shards import open_prepared
from lmx.data.stretches import split_stream, stretches_of_stream
from lmx.data.text_sources import DelimitedFiles
from tests.data import byte_tokenizer, shared, tokenizer_config

TEXTS = st.text(st.sampled_from("ab \n\té\u4e2d"), max_size=300)


@given(TEXTS, st.integers(1, 40), st.integers(0, 80))
def test_the_stretches_of_a_stream_are_the_stream(text, size, long):
    data = text.encode()
    found = list(stretches_of_stream(io.BytesIO(data), size, long))
    assert b"".join(one.text for one in found) == data
    assert [one.begins for one in found] == [True] + [False] * (len(found) - 1)
    assert [one.ends for one in found] == [False] * (len(found) - 1) + [True]
    if len(data) <= long:
        assert len(found) == 1
    for one in found:
        one.text.decode()  # no character is cut in two


@given(TEXTS, st.sampled_from([b"\n", b"\n\n", b"ab"]), st.integers(1, 9))
def test_splitting_a_stream_is_splitting_the_whole(text, separator, size):
    data = text.encode()
    assert list(split_stream(io.BytesIO(data), separator, size)) == data.split(separator)


@settings(max_examples=30, deadline=None)
@given(text=TEXTS, part=st.integers(3, 60), zipped=st.booleans(), workers=st.just(0))
def test_a_long_file_keeps_its_text_and_has_one_boundary(tmp_path_factory, text, part, zipped, workers):
    folder = tmp_path_factory.mktemp("long")
    name = folder / ("a.txt.gz" if zipped else "a.txt")
    with gzip.open(name, "wb") if zipped else open(name, "wb") as file:
        file.write((text + "end").encode())
    source = DelimitedFiles([str(name)], separator=None, long=20)
    prepare(Recipe(source, byte_tokenizer(), "eos", "error", part), folder / "out", workers=workers)
    found = open_prepared(folder / "out", byte_tokenizer(), vocab_size=256)
    assert bytes(found.store.read(0, len(found.store)).astype("uint8")) == (text + "end").encode() + b"\0"


def test_a_long_file_is_prepared_in_parts(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"line {i}\n" for i in range(1000)))
    one = DelimitedFiles([str(tmp_path / "a.txt")], separator=None)
    many = DelimitedFiles([str(tmp_path / "a.txt")], separator=None, long=500)
    assert len(one.parts(300)) == 1
    assert len(many.parts(300)) > 10
    assert one.settings() != many.settings()


def test_stretches_have_the_tokens_of_the_whole():
    text = shared("tinyshakespeare/input.txt").read_text()[:200_000]
    tokenizer = tokenizer_config("gpt2", {"path": str(shared("tokenizers/gpt2.tiktoken"))}).build()
    parts = [s.text.decode() for s in stretches_of_stream(io.BytesIO(text.encode()), 1000, 0)]
    assert len(parts) > 100
    assert [i for part in parts for i in tokenizer.encode(part)] == tokenizer.encode(text).tolist()


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_gz_is_named(tmp_path, damage):
    data = bytearray(gzip.compress(bytes(range(256)) * 40))
    name = tmp_path / "a.txt.gz"
    if damage == "cut":
        del data[-20:]
    else:
        data[30] ^= 0xFF
    name.write_bytes(data)
    source = DelimitedFiles([str(name)], separator=None)
    with pytest.raises(ValueError, match=r"a\.txt\.gz cannot be read"):
        list(source.documents(source.parts(1000)[0]))
