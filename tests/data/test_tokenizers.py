"""Tokenizers: text comes back, ids stand for the bytes they say, wrong files are named."""

from __future__ import annotations

import base64
import pickle
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lmx.data import bpe
from lmx.data.byte_pairs import TiktokenTokenizer, load_ranks, save_ranks
from lmx.data.tokenizers import ByteTokenizer
from tests.data import CONF, byte_tokenizer, shared, tokenizer_config

text = st.text(max_size=80)
GPT2 = tokenizer_config("gpt2").pattern


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small BPE, by both libraries."""
    folder = tmp_path_factory.mktemp("bpe") / "trained"
    library = Path(sysconfig.get_path("stdlib"))
    texts = [(library / name).read_text(encoding="utf-8") for name in ("argparse.py", "typing.py", "ast.py")]
    pattern = OmegaConf.load(CONF / "tokenizer_train.yaml").pattern
    learnt = bpe.train(texts, vocab_size=1000, pattern=pattern, specials=["<|endoftext|>"])
    bpe.save(learnt, folder, pattern=pattern, specials=["<|endoftext|>"])
    return folder


@pytest.fixture(scope="module")
def pair(trained):
    return both(trained)


def both(folder):
    own = tokenizer_config("bpe", {"path": str(folder), "vocab_size": 1000}).build()
    other = tokenizer_config(
        "huggingface",
        {"path": str(folder / "tokenizer.json"), "vocab_size": 1000, "eos": "<|endoftext|>"},
    ).build()
    return own, other


@given(text)
def test_bytes_round_trip(value):
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(value)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == value
    assert tokenizer.decode_bytes(ids) == value.encode()
    assert tokenizer.token_bytes[ids].sum() == len(value.encode()) - value.count("\0")


@settings(deadline=None, max_examples=200)
@given(value=text)
def test_the_two_libraries_give_the_same_ids(pair, value):
    own, other = pair
    ids = own.encode(value)
    assert ids.tolist() == other.encode(value).tolist()
    assert own.decode(ids) == value == other.decode(ids)
    assert own.token_bytes[ids].sum() == len(value.encode())


def test_the_two_libraries_agree_on_real_text(trained):
    own, other = both(trained)
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-f]*.py")):
        source = path.read_text(encoding="utf-8")
        ids = own.encode(source)
        assert np.array_equal(ids, other.encode(source)), path
        assert own.decode(ids) == source
    assert np.array_equal(own.token_bytes, other.token_bytes)
    assert own.eos_id == other.eos_id == 999


def test_batches_equal_single_texts(trained):
    for tokenizer in (*both(trained), byte_tokenizer()):
        texts = ["one", "", "two three\n\n", "é日本"]
        for a, b in zip(tokenizer.encode_batch(texts), texts, strict=True):
            assert np.array_equal(a, tokenizer.encode(b))


def test_specials_in_text_are_ordinary_text(trained):
    own, _ = both(trained)
    ids = own.encode("a<|endoftext|>b")
    assert own.eos_id not in ids
    assert own.decode(ids) == "a<|endoftext|>b"
    assert own.decode([own.eos_id]) == "<|endoftext|>"
    assert own.token_bytes[own.eos_id] == 0


def test_travel_to_other_processes(trained):
    for tokenizer in (*both(trained), byte_tokenizer()):
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy.hash == tokenizer.hash
        assert np.array_equal(copy.encode("def f(x):"), tokenizer.encode("def f(x):"))


def test_hash_tells_tokenizers_apart(trained):
    ranks = {bytes([b]): b for b in range(256)}
    make = lambda **k: TiktokenTokenizer(
        k.get("ranks", ranks),
        k.get("pattern", "."),
        specials=k.get("specials", {}),
        vocab_size=300,
        eos=None,
        bos=None,
    )
    base = make()
    assert base.hash == make().hash
    others = [
        make(pattern="..").hash,
        make(specials={"<e>": 256}).hash,
        make(ranks={**ranks, b"ab": 256}).hash,
        byte_tokenizer().hash,
        *(t.hash for t in both(trained)),
    ]
    assert len({base.hash, *others}) == 7


def test_padded_vocabulary_decodes(trained):
    padded = tokenizer_config("bpe", {"path": str(trained), "vocab_size": 1024}).build()
    assert padded.decode([1023]) == "<|reserved_1023|>"
    assert len(padded.token_bytes) == 1024
    assert ByteTokenizer(300).decode([104, 299, 105]) == "hi"


def test_a_vocabulary_far_larger_than_the_file_is_told(trained, caplog):
    tokenizer_config("bpe", {"path": str(trained), "vocab_size": 1024}).build()
    assert not caplog.records
    tokenizer_config("bpe", {"path": str(trained), "vocab_size": 8192}).build()
    assert "the embedding's other rows are never used; tokenizer.vocab_size=" in caplog.text


def test_ids_outside_are_refused(trained):
    for tokenizer in both(trained):
        with pytest.raises(ValueError, match=r"token 1000 is outside 0\.\.999"):
            tokenizer.decode([1, 1000])


def test_gpt2_ranks():
    path = shared("tokenizers/gpt2.tiktoken")
    tokenizer = tokenizer_config("gpt2", {"path": str(path)}).build()
    assert tokenizer.encode("Hello world, 1234!").tolist() == [15496, 995, 11, 1105, 2682, 0]
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (50257, 50256)
    sample = shared("wikitext2/valid.txt").read_text(encoding="utf-8")[:200_000]
    ids = tokenizer.encode(sample)
    assert tokenizer.decode(ids) == sample
    assert tokenizer.token_bytes[ids].sum() == len(sample.encode())


def test_llama3_ranks():
    path = shared("tokenizers/llama3.tiktoken")
    tokenizer = tokenizer_config("llama3", {"path": str(path)}).build()
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (128000, 128001, 128256)
    assert tokenizer.encode("Hello world").tolist() == [9906, 1917]
    assert tokenizer.decode([128009, 128255]) == "<|eot_id|><|reserved_128255|>"


def test_sentencepiece_like_json_counts_bytes(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {"<unk>": 0, "<0x0A>": 1, "\u2581a": 2, "é": 3, "</s>": 4}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_special_tokens(["</s>"])
    made.save(str(tmp_path / "t.json"))
    changes = {"path": str(tmp_path / "t.json"), "vocab_size": 5, "eos": "</s>"}
    tokenizer = tokenizer_config("huggingface", changes).build()
    assert tokenizer.token_bytes.tolist()[1:] == [1, 2, 2, 0]


# ---- what a person can get wrong


@pytest.fixture
def ranks_file(tmp_path):
    def write(ranks=None, text=None):
        path = tmp_path / "r.tiktoken"
        if text is None:
            save_ranks(ranks, path)
        else:
            path.write_text(text)
        return str(path)

    return write


BYTES = {bytes([b]): b for b in range(256)}


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (
            BYTES,
            {"vocab_size": 100},
            r"tokenizer\.vocab_size=100 is too small.*set tokenizer\.vocab_size=257",
        ),
        (BYTES, {"pattern": None}, r"tokenizer\.pattern is null"),
        (BYTES, {"pattern": "("}, r"tokenizer\.pattern is not a valid pattern"),
        (BYTES, {"eos": "<x>"}, r"tokenizer\.eos=<x> is not a special token.*<\|endoftext\|>"),
        (
            BYTES,
            {"specials": {"<|endoftext|>": 5}},
            r"<\|endoftext\|> has id 5, which is an ordinary token's",
        ),
        ({b"a": 0, b"b": 1}, {}, r"the ranks lack 254 of the 256 single bytes"),
        ("not ranks at all\n", {}, r"line 1 is not 'base64 rank'"),
        (base64.b64encode(b"a").decode() + " 0\n%% 1\n", {}, r"line 2 is not 'base64 rank'"),
        ("", {}, r"is empty; give a tiktoken ranks file"),
    ],
)
def test_bad_ranks(ranks_file, content, changes, message):
    path = ranks_file(text=content) if isinstance(content, str) else ranks_file(content)
    base = {"path": path, "vocab_size": 257, "specials": {"<|endoftext|>": 256}}
    with pytest.raises(ValueError, match=message):
        tokenizer_config("gpt2", {**base, **changes}).build()


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.path=/none does not exist; give a tiktoken ranks file"):
        tokenizer_config("gpt2", {"path": "/none"}).build()
    with pytest.raises(ValueError, match=r"tokenizer\.path=/none does not exist; give a tokenizer\.json"):
        tokenizer_config("huggingface", {"path": "/none", "vocab_size": 5}).build()
    with pytest.raises(ValueError, match=r"holds no trained tokenizer.*lmx tokenizer train to=DIR"):
        tokenizer_config("bpe", {"path": str(tmp_path)}).build()
    with pytest.raises(ValueError, match=r"cannot be read as a tokenizer\.json"):
        tokenizer_config("huggingface", {"path": str(tmp_path), "vocab_size": 5}).build()
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match=r"bad\.json is not a tokenizer\.json"):
        tokenizer_config("huggingface", {"path": str(tmp_path / "bad.json"), "vocab_size": 5}).build()


def test_named_encodings_that_are_not_there(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.encoding=gpt9 is not known to tiktoken; it has gpt2"):
        tokenizer_config("tiktoken", {"encoding": "gpt9"}).build()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(
        ValueError, match=r"not in tiktoken's cache.*tokenizer\.path=FILE.*TIKTOKEN_CACHE_DIR"
    ):
        tokenizer_config("tiktoken", {"encoding": "p50k_base"}).build()
    with pytest.raises(ValueError, match="both null"):
        tokenizer_config("tiktoken", {"encoding": None}).build()


def test_training_refuses_what_it_cannot_do():
    with pytest.raises(
        ValueError, match=r"vocab_size=100 is below the 256 bytes and 1 specials.*set vocab_size=257"
    ):
        bpe.train(["text"], vocab_size=100, pattern=GPT2, specials=["<e>"])
    with pytest.raises(ValueError, match=r"vocab_size=5000: this text gives only \d+ ids; set vocab_size="):
        bpe.train(["a little text"], vocab_size=5000, pattern=".+", specials=[])
    with pytest.raises(ValueError, match=r"\{1,3\}\+ is read in two ways"):
        bpe.train(["text"], vocab_size=300, pattern=r"\p{N}{1,3}+", specials=[])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("AAE= -1", "rank -1 is none of"),
        ("AAE= 99999999999", "rank 99999999999 is none of"),
        ("AAE= 7", "rank 7 was given before"),
    ],
)
def test_ranks_that_cannot_be_ids_are_named(tmp_path, line, message):
    path = tmp_path / "bad.tiktoken"
    path.write_text(
        "".join(f"{base64.b64encode(bytes([b])).decode()} {b}\n" for b in range(256)) + line + "\n"
    )
    with pytest.raises(ValueError, match=f"line 257: {message}"):
        load_ranks(str(path))
