"""Preparation: the same shards whatever the workers, after a kill, with two at once; bad text is named."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.data.encoding import Recipe
from lmx.data.files import find_files
from lmx.data.prepare import prepare
from lmx.data.shards import open_prepared
from lmx.data.sources import limit_bytes
from lmx.data.text_sources import DelimitedFiles, JsonLinesFiles
from tests.data import byte_tokenizer, data_config, tokenizer_config


def corpus(folder: Path, n: int = 400) -> list[str]:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    texts = [f"document {i} " + "x" * int(rng.integers(0, 300)) for i in range(n)]
    for i in range(4):
        part = texts[i * n // 4 : (i + 1) * n // 4]
        (folder / f"{i}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in part))
    return texts


def recipe(folder: Path, part_bytes: int = 3000) -> Recipe:
    source = JsonLinesFiles(
        find_files(str(folder), key="data.path", suffixes=(".jsonl",)),
        field="text",
        prompt_field=None,
        joiner="",
    )
    return Recipe(source, byte_tokenizer(), "eos", "error", part_bytes)


def content(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(directory.iterdir())}


def texts_in(directory: Path) -> list[str]:
    tokenizer = byte_tokenizer()
    found = open_prepared(directory, tokenizer, vocab_size=256)
    tokens = found.store.read(0, len(found.store))
    return tokenizer.decode(tokens).split("\0")[:-1]


def test_every_document_once_in_order(tmp_path):
    texts = corpus(tmp_path / "in")
    index = prepare(recipe(tmp_path / "in"), tmp_path / "out", workers=0)
    assert len(index["shards"]) > 10
    assert texts_in(tmp_path / "out") == texts
    assert index["documents"] == 400
    assert index["tokens"] == sum(len(t) + 1 for t in texts)


def test_processes_change_nothing(tmp_path):
    corpus(tmp_path / "in")
    prepare(recipe(tmp_path / "in"), tmp_path / "one", workers=1)
    prepare(recipe(tmp_path / "in"), tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_goes_on_where_it_was_stopped(tmp_path):
    corpus(tmp_path / "in")
    whole = recipe(tmp_path / "in")
    prepare(whole, tmp_path / "whole", workers=0)

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        prepare(whole, tmp_path / "stopped", workers=0, progress=stop)
    assert not (tmp_path / "stopped/index.json").exists()
    seen: list[int] = []
    prepare(whole, tmp_path / "stopped", workers=0, progress=lambda done, total: seen.append(done))
    assert seen[0] == 5
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_goes_on_after_a_kill(tmp_path):
    texts = corpus(tmp_path / "in", 4000)
    program = (
        "import sys; from pathlib import Path; from tests.data.test_prepare import recipe; "
        "from lmx.data.prepare import prepare; import time; "
        "prepare(recipe(Path(sys.argv[1])), Path(sys.argv[2]), workers=0, "
        "progress=lambda done, total: time.sleep(0.01))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "in"), str(tmp_path / "out")])
    deadline = time.time() + 60
    while not (tmp_path / "out/00008.json").exists():
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out/index.json").exists()
    prepare(recipe(tmp_path / "in"), tmp_path / "out", workers=0)
    assert texts_in(tmp_path / "out") == texts


def test_workers_end_with_their_parent(tmp_path):
    corpus(tmp_path / "in", 4000)
    program = (
        "import sys, os, time; from pathlib import Path; from tests.data.test_prepare import recipe; "
        "from lmx.data.prepare import prepare\n"
        "if __name__ == '__main__':\n"
        "    prepare(recipe(Path(sys.argv[1])), Path(sys.argv[2]), workers=2,\n"
        "            progress=lambda done, total: (time.sleep(60) if done else None))\n"
    )
    script = tmp_path / "go.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "in"), str(tmp_path / "out")], env=environment
    )

    def processes() -> list[tuple[int, int]]:
        listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
        return [(int(pid), int(parent)) for pid, parent in map(str.split, listed.stdout.splitlines())]

    deadline = time.time() + 120
    while not (tmp_path / "out/00000.json").exists():
        assert time.time() < deadline
        time.sleep(0.05)
    children = {pid for pid, parent in processes() if parent == process.pid}
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    while children & {pid for pid, _ in processes()}:
        assert time.time() < deadline
        time.sleep(0.05)


def _prepare_in(folder: str, out: str) -> None:
    prepare(recipe(Path(folder)), Path(out), workers=0)


def test_two_at_once(tmp_path):
    texts = corpus(tmp_path / "in")
    context = multiprocessing.get_context("spawn")
    both = [
        context.Process(target=_prepare_in, args=(str(tmp_path / "in"), str(tmp_path / "out"))) for _ in "ab"
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert texts_in(tmp_path / "out") == texts


def test_another_recipe_does_not_touch_a_directory(tmp_path):
    corpus(tmp_path / "in")
    prepare(recipe(tmp_path / "in"), tmp_path / "out", workers=0)
    before = content(tmp_path / "out")
    with pytest.raises(ValueError, match="holds the shards of other files or settings"):
        prepare(recipe(tmp_path / "in")._replace(boundary="none"), tmp_path / "out", workers=0)
    os.utime(tmp_path / "in/0.jsonl", (1, 1))
    with pytest.raises(ValueError, match="holds the shards of other files or settings"):
        prepare(recipe(tmp_path / "in"), tmp_path / "out", workers=0)
    assert content(tmp_path / "out") == before
    with pytest.raises(ValueError, match="is not empty; choose a new directory"):
        prepare(recipe(tmp_path / "in"), tmp_path / "in", workers=0)


# ---- sources


@settings(max_examples=150, deadline=None)
@given(
    pieces=st.lists(st.text("ab\n", max_size=6), min_size=1, max_size=30),
    separator=st.sampled_from(["\n", "<e>", "\n\n", "aa", "ab"]),
    part_bytes=st.integers(1, 40),
)
def test_parts_give_each_document_once(tmp_path_factory, pieces, separator, part_bytes):
    path = tmp_path_factory.mktemp("d") / "t.txt"
    text = separator.join(pieces)
    path.write_bytes(text.encode())
    source = DelimitedFiles([str(path)], separator=separator)
    found = [d.text for part in source.parts(part_bytes) for d in source.documents(part)]
    expected = text.encode().split(separator.encode())
    assert [f for f in found if f] == [e for e in expected if e]


def test_gzip_and_trees(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/2.txt.gz").write_bytes(gzip.compress(b"two"))
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "c.bin").write_text("no text")
    files = find_files(str(tmp_path), key="data.path", suffixes=(".txt", ".txt.gz"))
    source = DelimitedFiles(files, separator=None)
    assert [d.text for p in source.parts(100) for d in source.documents(p)] == [b"one", b"two"]
    assert find_files([str(tmp_path / "*.txt"), str(tmp_path / "a.txt")], key="k") == (
        str(tmp_path / "a.txt"),
    )
    assert limit_bytes([str(tmp_path / "a.txt")] * 3, 4) == (str(tmp_path / "a.txt"),) * 2


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table({"text": [f"text {i}" for i in range(50)], "n": list(range(50))})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    source = data_config("parquet", {"path": str(tmp_path / "a.parquet")}).source()
    found = [d.text.decode() for p in source.parts(100) for d in source.documents(p)]
    assert found == [f"text {i}" for i in range(50)]
    assert len(source.parts(1)) == 8
    with pytest.raises(ValueError, match=r"data\.field=body is not a column of .*; it has n, text"):
        data_config("parquet", {"path": str(tmp_path / "a.parquet"), "field": "body"}).source().parts(1)
    wrong = data_config("parquet", {"path": str(tmp_path / "a.parquet"), "field": "n"}).source()
    with pytest.raises(ValueError, match=r"data\.field=n is int, not text"):
        list(wrong.documents(wrong.parts(10**9)[0]))


@pytest.mark.parametrize("record", ["text", "json", "uint16"])
def test_arrayrecord(tmp_path, record):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(tmp_path / "a.arrayrecord"), "group_size:1")
    for i in range(40):
        ids = np.arange(i % 7 + 1, dtype="<u2")
        content = {
            "text": f"text {i}".encode(),
            "json": json.dumps({"t": f"text {i}"}).encode(),
            "uint16": ids.tobytes(),
        }
        writer.write(content[record])
    writer.close()
    changes = {"path": str(tmp_path), "record": record, "field": "t"}
    source = data_config("arrayrecord", changes).source()
    documents = [d for p in source.parts(100) for d in source.documents(p)]
    assert len(source.parts(100)) > 1
    if record == "uint16":
        assert [len(d.ids) for d in documents] == [i % 7 + 1 for i in range(40)]
    else:
        assert [d.text for d in documents] == [f"text {i}".encode() for i in range(40)]


def test_prompts_are_part_of_the_document(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": "why", "a": "so"}\n')
    source = data_config("jsonl", {"path": str(tmp_path), "field": "a", "prompt_field": "q"}).source()
    prepare(Recipe(source, byte_tokenizer(), "eos", "error"), tmp_path / "out", workers=0)
    assert texts_in(tmp_path / "out") == ["why\nso"]
    found = open_prepared(tmp_path / "out", byte_tokenizer(), vocab_size=256)
    assert found.documents[["length", "prompt"]].tolist() == [(7, 4)]


# ---- what a person can get wrong


def test_not_utf8(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "bad.txt").write_bytes(b"ab\xffcd")
    source = DelimitedFiles([str(tmp_path / "bad.txt"), str(tmp_path / "good.txt")], separator=None)
    base = Recipe(source, byte_tokenizer(), "eos", "error")
    message = (
        r"bad\.txt: byte 2 \(0xff\) is not UTF-8; set data\.invalid_utf8=replace or data\.invalid_utf8=skip"
    )
    with pytest.raises(ValueError, match=message):
        prepare(base, tmp_path / "error", workers=0)
    assert not (tmp_path / "error/index.json").exists()
    skipped = prepare(base._replace(invalid_utf8="skip"), tmp_path / "skip", workers=0)
    assert (skipped["skipped"], texts_in(tmp_path / "skip")) == (1, ["good"])
    replaced = prepare(base._replace(invalid_utf8="replace"), tmp_path / "replace", workers=0)
    assert (replaced["replaced"], texts_in(tmp_path / "replace")) == (1, ["ab\ufffdcd", "good"])


def test_nul_in_text(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"ab\0cd")
    source = DelimitedFiles([str(tmp_path / "bad.txt")], separator=None)
    with pytest.raises(
        ValueError, match=r"bad\.txt: character 2 is NUL, with which the bytes tokenizer ends"
    ):
        prepare(Recipe(source, byte_tokenizer(), "eos", "error"), tmp_path / "out", workers=0)


@pytest.mark.parametrize(
    ("option", "name", "text", "changes", "message"),
    [
        ("text", "a.txt", "", {}, r"no text in .*a\.txt: every document is empty or was skipped"),
        ("jsonl", "a.jsonl", "{", {}, r"a\.jsonl, byte 0: not a line of JSON"),
        (
            "jsonl",
            "a.jsonl",
            '{"body": "x"}',
            {},
            r"data\.field=text is not in .*byte 0, which has: body; set data\.field",
        ),
        ("jsonl", "a.jsonl", '{"text": 3}', {}, r"data\.field=text is not text in .* but int"),
        ("jsonl", "a.jsonl", '{"text": "x"}', {"prompt_field": "q"}, r"data\.prompt_field=q is not in"),
        ("jsonl", "a.jsonl", "[1]", {}, r"data\.field=text is not in .* which has: list"),
        ("text", "a.txt.gz", "plain", {}, r"data\.path: .*a\.txt\.gz cannot be read"),
        ("text", "a.txt", "x", {"separator": ""}, r"data\.separator is empty"),
        ("parquet", "a.parquet", "x", {}, r"a\.parquet is not a Parquet file"),
        ("arrayrecord", "a.arrayrecord", "x", {}, r"a\.arrayrecord is not an ArrayRecord file"),
    ],
)
def test_bad_sources(tmp_path, option, name, text, changes, message):
    (tmp_path / name).write_text(text)
    changes = {"path": str(tmp_path / name), "cache_dir": str(tmp_path / "cache"), **changes}
    with pytest.raises(ValueError, match=message):
        data_config(option, changes).build(byte_tokenizer(), sequence_length=4, seed=0)


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "file").write_text("")
    changes = {"path": str(tmp_path / "a.txt"), "cache_dir": str(tmp_path / "file/cache")}
    with pytest.raises(ValueError, match="cannot be written"):
        data_config("text", changes).build(byte_tokenizer(), sequence_length=4, seed=0)


def test_a_boundary_that_the_tokenizer_lacks(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    changes = {"path": str(tmp_path / "a.txt"), "document_boundary": "both", "cache_dir": str(tmp_path)}
    with pytest.raises(ValueError, match=r"data\.document_boundary=both, but the tokenizer has no bos token"):
        data_config("text", changes).build(tokenizer_config("bytes").build(), sequence_length=4, seed=0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda index: [],
        lambda index: {**index, "shards": []},
        lambda index: {**index, "shards": [{**index["shards"][0], "file": "../00000.bin"}]},
        lambda index: {**index, "shards": [{**index["shards"][0], "file": "/etc/passwd"}]},
        lambda index: {**index, "shards": [{"file": "x"}]},
        lambda index: {**index, "max_token": "many"},
        lambda index: {key: value for key, value in index.items() if key != "shards"},
    ],
)
def test_an_index_that_nobody_wrote_is_refused(tmp_path, damage):
    corpus(tmp_path / "in", 8)
    prepare(recipe(tmp_path / "in"), tmp_path / "out", workers=0)
    path = tmp_path / "out" / "index.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        open_prepared(tmp_path / "out", byte_tokenizer(), vocab_size=256)


def test_a_table_that_claims_more_than_its_file_holds_is_refused(tmp_path):
    """Before any memory is taken for it: 16 terabytes."""
    corpus(tmp_path / "in", 8)
    prepare(recipe(tmp_path / "in"), tmp_path / "out", workers=0)
    path = next((tmp_path / "out").glob("*.documents.npy"))
    raw = path.read_bytes()
    start = raw.index(b"'shape': (") + len(b"'shape': (")
    end = raw.index(b"\n")
    shape = b"1000000000000,), }"
    path.write_bytes(raw[:start] + shape.ljust(end - start) + raw[end:])
    with pytest.raises(ValueError, match=r"documents\.npy is damaged"):
        open_prepared(tmp_path / "out", byte_tokenizer(), vocab_size=256)
