"""Shard formats come back as written; damaged ones are named."""

from __future__ import annotations

import json
import multiprocessing

import numpy as np
import pytest

from lmx.data.shards import HEADER, TokenStore, open_shard, write_atomically, write_shard
from tests.data import byte_tokenizer, data_config

RNG = np.random.default_rng(0)


def build(path, *, vocab=256, **changes):
    tokenizer = byte_tokenizer()
    tokenizer.vocab_size = vocab
    config = data_config("tokens", {"path": str(path), "split.fraction": 0.2, **changes})
    return config.build(tokenizer, sequence_length=8, seed=0)


def all_tokens(dataset) -> list[int]:
    """Training and evaluation text of a stream, in order."""
    n = dataset.examples_per_epoch
    rows = [dataset.train[i].tokens.tolist() for i in range(n)]
    return sorted(t for row in rows for t in row)


@pytest.mark.parametrize(("dtype", "magic", "version"), [("<u2", 20240520, 1), ("<u4", 20240801, 7)])
def test_headed_round_trip(tmp_path, dtype, magic, version):
    tokens = RNG.integers(0, 60000, 1000).astype(dtype)
    write_shard(tmp_path / "a.bin", tokens)
    raw = (tmp_path / "a.bin").read_bytes()
    assert np.frombuffer(raw[:12], "<i4").tolist() == [magic, version, 1000]
    assert len(raw) == HEADER + tokens.nbytes
    for layout in ("headed", "auto"):
        shard = open_shard(str(tmp_path / "a.bin"), layout=layout, vocab_size=60000)
        store = TokenStore([shard], vocab_size=60000)
        assert store.read(0, 1000).tolist() == tokens.tolist()
        assert store.read(37, 5).dtype == np.int32


@pytest.mark.parametrize(
    ("dtype", "layout", "vocab"),
    [("<u2", "uint16", 9), ("<u4", "uint32", 9), ("<u2", "auto", 65536), ("<u4", "auto", 65537)],
)
def test_headerless(tmp_path, dtype, layout, vocab):
    tokens = RNG.integers(0, 9, 500).astype(dtype)
    tokens.tofile(tmp_path / "a.bin")
    shard = open_shard(str(tmp_path / "a.bin"), layout=layout, vocab_size=vocab)
    assert TokenStore([shard], vocab_size=vocab).read(0, 500).tolist() == tokens.tolist()


def test_several_shards_are_one_text(tmp_path):
    for i in range(3):
        write_shard(tmp_path / f"train_{i}.bin", np.arange(i * 50, i * 50 + 50, dtype="<u2"))
    write_shard(tmp_path / "val.bin", np.arange(200, 250, dtype="<u2"))
    changes = {"eval_path": str(tmp_path / "val.bin"), "split": None}
    dataset = build(tmp_path / "train_*.bin", **changes)
    assert all_tokens(dataset) == list(range(144))
    assert [t for i in range(7) for t in dataset.eval[i].targets[dataset.eval[i].weights > 0]] == list(
        range(201, 250)
    )


@pytest.mark.parametrize(("where", "starts"), [("eos_ends", [0, 4, 8]), ("eos_begins", [0, 3, 7, 11])])
def test_documents_by_end_of_text(tmp_path, where, starts):
    text = np.array([5, 6, 7, 0, 8, 9, 9, 0, 4, 4, 4, 0, 0][:12], "<u2")
    np.concatenate([text, text]).tofile(tmp_path / "a.bin")
    changes = {"documents": where, "packing": "concat", "split": None, "eval_path": str(tmp_path / "a.bin")}
    row = build(tmp_path / "a.bin", **changes).eval[0]
    begins = np.flatnonzero(np.diff(row.segments, prepend=0)).tolist()
    assert begins == [s for s in starts if s < 8]


# ---- what a person can get wrong


def header(magic=20240520, version=1, count=10, tokens=10) -> bytes:
    head = np.zeros(256, "<i4")
    head[:3] = magic, version, count
    return head.tobytes() + np.ones(tokens, "<u2").tobytes()


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (b"", {}, r"a\.bin is empty"),
        (
            b"\1\0" * 50 + b"\1",
            {},
            r"a\.bin has 101 bytes, not a multiple of 2 \(uint16 tokens\): it is cut short",
        ),
        (b"\1\0" * 51, {"layout": "uint32"}, r"not a multiple of 4 \(uint32 tokens\)"),
        (
            header(count=100, tokens=80),
            {},
            r"should have 1224 bytes for the 100 tokens of its header, but has 1184: it is cut short",
        ),
        (header(version=3), {}, r"a\.bin has shard version 3; version 1 is known"),
        (b"\1\0" * 600, {"layout": "headed"}, r"a\.bin has no shard header.*set data\.layout=uint16"),
        (
            b"\1\0" * 5,
            {},
            r"4 tokens to train on: too few for one row of trainer\.sequence_length=8 \(it takes 9\)",
        ),
        (b"\1\0" * 50, {"packing": "concat"}, r"data\.packing=concat needs to know where documents end"),
        (
            b"\1\0" * 50,
            {"documents": "eos_ends"},
            r"no token is the end of text \(0\); set data\.documents=none",
        ),
        (b"\1\0" * 50, {"documents": "index"}, r"was not made by lmx data prepare; set data\.documents=none"),
        (
            b"\1\0" * 50,
            {"split.by": "document"},
            r"data\.split\.by=document, but where documents end is not known",
        ),
        (b"\1\0" * 50, {"split.fraction": 0.0}, r"nothing to evaluate on.*raise data\.split\.fraction"),
    ],
)
def test_bad_shards(tmp_path, content, changes, message):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "a.bin", **changes)


def test_missing_shards(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path=/none does not exist"):
        build("/none")
    with pytest.raises(ValueError, match=r"is a directory without files that end in \.bin"):
        build(tmp_path)


def test_tokens_outside_the_vocabulary(tmp_path):
    tokens = np.ones(100, "<u2")
    tokens[41] = 300
    tokens.tofile(tmp_path / "a.bin")
    with pytest.raises(
        ValueError, match=r"a\.bin has token 300 at position 41, outside the vocabulary of 256"
    ):
        build(tmp_path / "a.bin")


def test_tokens_too_many_to_prove_are_checked_when_they_are_read(tmp_path):
    tokens = np.ones(1000, "<u2")
    tokens[541] = 300
    tokens.tofile(tmp_path / "a.bin")
    shard = open_shard(str(tmp_path / "a.bin"), layout="uint16", vocab_size=256)
    store = TokenStore([shard], vocab_size=256)
    store.prove(most=20, block=10)
    store.read(0, 500)
    with pytest.raises(ValueError, match="position 541"):
        store.read(500, 100)
    with pytest.raises(ValueError, match="position 541"):
        store.prove(block=10)


def test_uint32_is_not_taken_for_uint16(tmp_path):
    np.arange(1, 200, dtype="<u4").tofile(tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"looks like uint32 .* data\.layout=uint32"):
        open_shard(str(tmp_path / "a.bin"), layout="auto", vocab_size=256)
    assert open_shard(str(tmp_path / "a.bin"), layout="uint16", vocab_size=256).tokens == 398
    assert open_shard(str(tmp_path / "a.bin"), layout="uint32", vocab_size=256).tokens == 199


# ---- prepared directories


@pytest.fixture
def prepared(tmp_path):
    from lmx.data.encoding import Recipe
    from lmx.data.prepare import prepare
    from lmx.data.text_sources import DelimitedFiles

    (tmp_path / "t.txt").write_text("\n".join("abcdefgh" * n for n in range(1, 30)))
    source = DelimitedFiles([str(tmp_path / "t.txt")], separator="\n")
    recipe = Recipe(source, byte_tokenizer(), "eos", "error", overrides=("tokenizer=bytes", "a=b c"))
    prepare(recipe, tmp_path / "out", workers=0)
    return tmp_path / "out"


def test_another_tokenizer_is_refused(prepared):
    index = json.loads((prepared / "index.json").read_text())
    index["tokenizer"] = "0" * 64
    (prepared / "index.json").write_text(json.dumps(index))
    for path in (prepared, prepared / "*.bin"):
        with pytest.raises(
            ValueError, match=r"(?s)another tokenizer \(bytes; 256 ids\).*\n    fix: tokenizer=bytes 'a=b c'"
        ):
            build(path)


def test_an_index_of_an_earlier_version_names_hashes(prepared):
    index = json.loads((prepared / "index.json").read_text())
    index["tokenizer"] = "0" * 64
    del index["made_with"]
    (prepared / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"\(hash 000000000000; 256 ids\).*\(bytes, hash \w{12}; 256 ids\)"):
        build(prepared)


def test_ids_of_an_unrecorded_tokenizer_need_only_be_the_models(tmp_path):
    (RNG.integers(0, 50_000, 500).astype("<u2")).tofile(tmp_path / "a.bin")
    config = data_config("tokens", {"path": str(tmp_path / "a.bin"), "split.fraction": 0.2})

    def read(vocab_size):
        dataset = config.build(byte_tokenizer(), sequence_length=8, seed=0, vocab_size=vocab_size)
        return [dataset.train[i].tokens.max() for i in range(dataset.examples_per_epoch)]

    assert max(read(50_304)) > 40_000
    with pytest.raises(ValueError, match=r"outside the vocabulary of 1000; .* model\.vocab_size above"):
        read(1000)


def test_an_unfinished_preparation_is_refused(prepared):
    (prepared / "index.json").unlink()
    with pytest.raises(ValueError, match=r"has no index\.json; its preparation did not finish"):
        build(prepared)


@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_damage_is_found(prepared, damage):
    path = prepared / "00000.bin"
    raw = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(raw[:-10])
    elif damage == "flip":
        raw[2000] ^= 1
        path.write_bytes(raw)
    else:
        path.unlink()
    wanted = {"cut": "cut short", "flip": "is damaged", "remove": "is missing"}[damage]
    with pytest.raises(ValueError, match=wanted):
        build(prepared)


def test_a_larger_token_than_the_vocabulary(prepared):
    with pytest.raises(ValueError, match=r"has token 104, outside the vocabulary of 100"):
        build(prepared, vocab=100)


def test_documents_of_an_index(prepared):
    dataset = build(prepared, packing="best_fit", **{"split.by": "document"})
    counts = dataset.description
    assert counts["train"]["documents"] + counts["eval"]["documents"] == 29


def _write(path: str, value: int) -> None:
    from pathlib import Path

    for _ in range(20):
        write_atomically(Path(path), lambda file: file.write(bytes([value]) * 100_000))


def test_two_writers_leave_one_whole_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(str(tmp_path / "f"), v)) for v in (1, 2)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        if (tmp_path / "f").exists():
            content = (tmp_path / "f").read_bytes()
            assert len(content) == 100_000
            assert len(set(content)) == 1
            seen.add(content[0])
    assert seen
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
