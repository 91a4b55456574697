"""Documents from damaged files: text, JSON lines, packed or not, and Parquet."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.data.record_sources import ParquetFiles
from lmx.data.text_sources import DelimitedFiles, JsonLinesFiles
from tests.fuzz.support import answer, cases, damaged, damaged_bytes

RECORDS = [{"text": f"document {n} é", "prompt": "say", "n": n} for n in range(8)]
KINDS = {
    "text": lambda path: DelimitedFiles([path], separator="\n"),
    "whole": lambda path: DelimitedFiles([path], separator=None, long=100),
    "jsonl": lambda path: JsonLinesFiles([path], field="text", prompt_field="prompt", joiner=" "),
    "parquet": lambda path: ParquetFiles([path], field="text"),
}


def use(source):
    """All that preparing data asks of a source."""
    for part in source.parts(200):
        for document in source.documents(part):
            assert isinstance(document.text, bytes)
            assert isinstance(document.prompt, bytes)


@given(data=st.data(), kind=st.sampled_from(["text", "whole", "jsonl"]), packed=st.booleans())
@cases()
def test_damaged_bytes(data, kind, packed, tmp_path):
    raw = "".join(f"{json.dumps(record)}\n" for record in RECORDS).encode()
    raw = gzip.compress(raw, mtime=0) if packed else raw
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    path.write_bytes(data.draw(damaged_bytes(raw)))
    answer(lambda: use(KINDS[kind](str(path))))


@given(data=st.data())
@cases()
def test_damaged_records(data, tmp_path):
    lines = [json.dumps(data.draw(damaged(record)) if n == 3 else record) for n, record in enumerate(RECORDS)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    answer(lambda: use(KINDS["jsonl"](str(path))))


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """A Parquet file of a few row groups."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path, row_group_size=3)
    return path.read_bytes()


@given(data=st.data())
@cases()
def test_damaged_parquet(data, parquet, tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(data.draw(damaged_bytes(parquet)))
    answer(lambda: use(KINDS["parquet"](str(path))))
