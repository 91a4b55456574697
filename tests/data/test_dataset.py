"""Datasets of every option: splits, caches, and what is refused."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from lmx.run.strided import documents, windows
from tests.data import byte_tokenizer, data_config, shared, tokenizer_config

T = 16


def text_data(tmp_path: Path, text: str, **changes):
    (tmp_path / "t.txt").write_text(text)
    wanted = {"path": str(tmp_path / "t.txt"), "cache_dir": str(tmp_path / "cache"), **changes}
    return data_config("text", wanted)


def build(config, *, length: int = T, seed: int = 0, tokenizer=None):
    return config.build(tokenizer or byte_tokenizer(), sequence_length=length, seed=seed)


def eval_targets(dataset) -> bytes:
    rows = [dataset.eval[i] for i in range(len(dataset.eval))]
    return b"".join(bytes(row.targets[row.weights > 0].tolist()) for row in rows)


def train_rows(dataset) -> list[bytes]:
    return [bytes(dataset.train[i].tokens.tolist()) for i in range(dataset.examples_per_epoch)]


def test_configuration_needs_no_jax():
    program = "import sys, lmx.data; assert not {'jax', 'grain', 'tiktoken', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_preparing_needs_no_jax():
    program = "import sys, lmx.data.prepare; assert not {'jax', 'grain'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_stdlib_is_real_text_in_two_sides(tmp_path):
    dataset = build(data_config("stdlib", {"cache_dir": str(tmp_path)}), length=256)
    about = dataset.description
    assert about["documents"] > 300
    assert about["train"]["documents"] + about["eval"]["documents"] == about["documents"]
    assert 0.005 < about["eval"]["tokens"] / about["tokens"] < 0.15
    assert dataset.tokens_per_epoch == dataset.examples_per_epoch * 256
    words = b"".join(train_rows(dataset)[:200])
    assert b"def " in words
    assert b"import " in words


@pytest.mark.parametrize("packing", ["stream", "concat", "best_fit", "none"])
def test_a_text_that_is_only_evaluated_on_is_whole(tmp_path, packing):
    text = "".join(chr(97 + i % 26) for i in range(230))
    config = text_data(tmp_path, text, packing=packing)
    whole = config.build(byte_tokenizer(), sequence_length=T, seed=0, whole=True)
    assert len(whole.train) == 0
    assert eval_targets(whole).startswith(text[1:T].encode())
    if packing != "none":  # which cuts documents to one row
        ids = np.concatenate(list(documents(whole.eval)))
        assert bytes(ids.tolist()).startswith(text.encode())
        scored = sum(int(row.weights.sum()) for row in windows(documents(whole.eval), T, 4))
        assert scored == len(ids) - len(list(documents(whole.eval)))
    short = text_data(tmp_path, "abc", packing=packing)
    found = short.build(byte_tokenizer(), sequence_length=T, seed=0, whole=True)
    assert eval_targets(found).startswith(b"bc")


def test_what_is_apart_is_evaluated_on_whole(tmp_path):
    (tmp_path / "e.txt").write_text("other text " * 9)
    config = text_data(tmp_path, "xy" * 99, eval_path=str(tmp_path / "e.txt"), split=None)
    whole = config.build(byte_tokenizer(), sequence_length=T, seed=0, whole=True)
    assert eval_targets(whole).startswith(b"ther text other")


def test_tail_split_is_the_last_part(tmp_path):
    text = "".join(chr(97 + i * 7 % 26) for i in range(1003))
    changes = {"document_boundary": "none", "split.fraction": 0.1}
    dataset = build(text_data(tmp_path, text, **changes))
    cut = int(1003 * 0.9)
    assert eval_targets(dataset).decode() == text[cut + 1 :]
    assert sorted(train_rows(dataset)) == sorted(
        text[i * T : (i + 1) * T].encode() for i in range((cut - 1) // T)
    )


def test_shakespeare_split_is_the_published_one(tmp_path):
    path = shared("tinyshakespeare/input.txt")
    changes = {"path": str(path), "cache_dir": str(tmp_path), "document_boundary": "none"}
    dataset = build(data_config("text", changes), length=64)
    text = path.read_bytes()
    assert len(text) == 1_115_394
    assert dataset.description["train"]["tokens"] == 1_003_854
    assert dataset.description["eval"]["tokens"] == 111_540
    assert eval_targets(dataset) == text[1_003_855:]
    assert len(dataset.eval) == -(-111_539 // 64)


def test_document_split_keeps_documents_whole_and_equal_ones_together(tmp_path):
    texts = [f"document number {i % 100:04d} of the text" for i in range(300)]
    changes = {"separator": "\n", "split.by": "document", "split.fraction": 0.3, "packing": "none"}
    dataset = build(text_data(tmp_path, "\n".join(texts), **changes), length=64)
    sides = [
        set(train_rows(dataset)),
        {bytes(dataset.eval[i].tokens.tolist()) for i in range(len(dataset.eval))},
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 100
    assert 15 < len(sides[1]) < 45
    assert len(dataset.eval) == 3 * len(sides[1])


def test_split_does_not_move_when_documents_are_added(tmp_path):
    texts = [f"document number {i:04d} of the text" for i in range(200)]
    changes = {"separator": "\n", "split.by": "document", "packing": "none"}

    def held(n: int, **more) -> set[bytes]:
        dataset = build(text_data(tmp_path, "\n".join(texts[:n]), **changes, **more), length=64)
        return {bytes(dataset.eval[i].tokens.tolist()) for i in range(len(dataset.eval))}

    assert held(100) <= held(200)
    assert held(200) != held(200, **{"split.seed": 1})


def test_evaluation_text_apart(tmp_path):
    (tmp_path / "valid.txt").write_text("the text to evaluate on")
    changes = {"eval_path": str(tmp_path / "valid.txt"), "document_boundary": "none"}
    dataset = build(text_data(tmp_path, "text to train on " * 10, **changes))
    assert eval_targets(dataset) == b"he text to evaluate on"
    assert dataset.description["train"]["tokens"] == 170


def test_the_cache_is_reused_told_and_renewed(tmp_path, caplog):
    config = text_data(tmp_path, "some text " * 100)
    caplog.set_level(logging.INFO, "lmx.data")
    first = build(config)
    assert not first.description["reused"]
    second = build(config)
    assert second.description["reused"]
    assert "from the cache" in caplog.text
    assert train_rows(first) == train_rows(second)
    other = text_data(tmp_path, "other text " * 100)
    assert not build(other).description["reused"]
    bpe_free = tokenizer_config("bytes", {"vocab_size": 512}).build()
    assert build(other, tokenizer=bpe_free).description["reused"]


def test_a_damaged_cache_is_made_again_and_told(tmp_path, caplog):
    config = text_data(tmp_path, "some text " * 100)
    first = build(config)
    shard = Path(first.description["cache"]) / "00000.bin"
    raw = bytearray(shard.read_bytes())
    raw[1500] ^= 1
    shard.write_bytes(raw)
    again = build(config)
    assert "is damaged" in caplog.text
    assert not again.description["reused"]
    assert train_rows(first) == train_rows(again)


@pytest.mark.parametrize("packing", ["stream", "concat", "best_fit", "none"])
def test_segments_only_where_rows_hold_several_documents(tmp_path, packing):
    changes = {"separator": "\n", "split.by": "document", "packing": packing}
    dataset = build(text_data(tmp_path, "\n".join(f"line {i}" for i in range(300)), **changes))
    row = dataset.train[0]
    assert (row.segments is None) == (packing in ("stream", "none"))
    assert (row.positions is None) == (row.segments is None)
    assert {a.dtype.name for a in (row.tokens, row.targets)} == {"int32"}
    assert row.weights.dtype == np.float32


def test_gsm8k_answers_are_learnt_and_questions_are_not(tmp_path):
    path = shared("gsm8k/test.jsonl")
    changes = {"path": str(path), "field": "answer", "prompt_field": "question", "cache_dir": str(tmp_path)}
    dataset = build(data_config("jsonl", changes), length=512)
    tokenizer = byte_tokenizer()
    row = dataset.train[0]
    first = row.segments == 1
    learnt = tokenizer.decode(row.targets[first & (row.weights > 0)])
    prompt = tokenizer.decode(row.tokens[first & (row.weights == 0)])
    assert "####" in learnt
    assert "####" not in prompt


# ---- what a person can get wrong


def test_too_little_text(tmp_path):
    message = r"\d+ tokens to train on: too few for one row of trainer\.sequence_length=64 \(it takes 65\)"
    with pytest.raises(ValueError, match=message):
        build(text_data(tmp_path, "short text"), length=64)


def test_nothing_to_evaluate_on(tmp_path):
    changes = {"split.by": "document", "split.fraction": 0.05}
    message = r"nothing to evaluate on \(0 documents, 0 tokens\); raise data\.split\.fraction, or set data\.split\.by"
    with pytest.raises(ValueError, match=message):
        build(text_data(tmp_path, "one document only " * 20, **changes))


@pytest.mark.parametrize(
    ("option", "changes", "message"),
    [
        (
            "text",
            {"path": "x", "windows": "random", "packing": "concat"},
            "windows=random goes with packing=stream",
        ),
        ("tokens", {"path": "x", "split": None}, "nothing says what to evaluate on"),
        ("text", {"path": "x", "packing": "tight"}, "'stream', 'concat', 'best_fit' or 'none'"),
        ("text", {"path": "x", "split.fraction": 1.5}, "less than or equal to 1"),
    ],
)
def test_contradictions(option, changes, message):
    with pytest.raises(ValidationError, match=message):
        data_config(option, changes)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none.txt", r"data\.path=/none\.txt does not exist"),
        (
            "/none/*.txt",
            r"data\.path=/none/\*\.txt does not exist \(no such file, directory, or match of a glob\)",
        ),
    ],
)
def test_no_such_file(tmp_path, path, message):
    with pytest.raises(ValueError, match=message):
        build(data_config("text", {"path": path, "cache_dir": str(tmp_path)}))


def test_no_file_of_that_kind_in_a_directory(tmp_path):
    with pytest.raises(ValueError, match=r"is a directory without files that end in \.jsonl, \.jsonl\.gz"):
        build(data_config("jsonl", {"path": str(tmp_path), "cache_dir": str(tmp_path)}))
