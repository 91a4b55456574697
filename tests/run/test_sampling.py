"""What generation_config.json says is the default of everything it can say, and nothing of it is passed over."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lmx.config.compose import load as compose
from lmx.config.errors import RequestError
from lmx.run.infer_config import GenerateConfig
from lmx.run.load import load
from lmx.run.sampling import PLAIN, defaults, new_tokens, sampling_knobs
from tests.support import ROOT, write_pretrained

TOKENIZER = ROOT.parent / "shared" / "parity" / "tokenizers" / "bytelevel_chatml"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, {}),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.0}),
        ({"do_sample": True}, {"temperature": 1.0}),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05},
            {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05},
        ),
        ({"top_p": 0.9}, {"temperature": 1.0, "top_p": 0.9}),
        ({"do_sample": True, "top_k": 0}, {"temperature": 1.0}),
        (
            {"do_sample": False, "repetition_penalty": 1.1, "max_new_tokens": 7},
            {"temperature": 0.0, "repetition_penalty": 1.1, "max_new_tokens": 7},
        ),
    ],
)
def test_defaults(told, expected):
    assert defaults(told) == PLAIN | expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pretrained(tmp_path_factory.mktemp("hf") / "model")


def knobs(folder, *overrides, **told):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9], **told}))
    words = [f"from={folder}", "prompt_tokens=[1]", *overrides]
    config = compose("generate", words, schema=GenerateConfig).config
    return sampling_knobs(load(folder), config)


def test_a_directory_without_a_tokenizer_has_its_own_defaults_and_ends_too(folder):
    told = {"do_sample": True, "temperature": 0.6, "repetition_penalty": 1.2}
    found = knobs(folder, **told)
    assert (found["temperature"], found["repetition_penalty"], found["stop_tokens"]) == (0.6, 1.2, [7, 9])
    found = knobs(folder, "temperature=0", "repetition_penalty=null", "ignore_eos=true", **told)
    assert (found["temperature"], found["repetition_penalty"], found["stop_tokens"]) == (0.0, None, [])
    found = knobs(folder, "generation_config=ignore", **told)
    assert (found["temperature"], found["repetition_penalty"]) == (0.8, None)


@pytest.mark.parametrize(
    ("key", "value", "off"),
    [
        ("num_beams", 4, 1),
        ("no_repeat_ngram_size", 3, 0),
        ("typical_p", 0.9, 1.0),
        ("bad_words_ids", [[1]], None),
        ("min_new_tokens", 5, 0),
    ],
)
def test_what_is_not_supported_is_refused_by_name_and_can_be_ignored(folder, key, value, off):
    with pytest.raises(RequestError, match=f"{key}=.*not supported(.|\n)*generation_config=ignore"):
        knobs(folder, **{key: value})
    knobs(folder, **{key: off})
    knobs(folder, "generation_config=ignore", **{key: value})


def test_a_continuation_fits_the_context(folder):
    loaded = load(folder)
    with pytest.raises(ValueError, match="max_new_tokens=250 would fit"):
        loaded.generate([[1] * 6], 400)
    for words, told, n_prompt, expected in (
        ([], {}, 6, 128),
        ([], {}, 250, 6),
        ([], {"max_new_tokens": 40}, 250, 40),
        (["max_new_tokens=90"], {}, 250, 90),
        ([], {}, 256, 128),  # which the engine refuses
    ):
        (folder / "generation_config.json").write_text(json.dumps(told))
        config = compose(
            "generate", [f"from={folder}", "prompt_tokens=[1]", *words], schema=GenerateConfig
        ).config
        loaded = load(folder)
        found = new_tokens(loaded, config, sampling_knobs(loaded, config)["max_new_tokens"], n_prompt)
        assert found == expected


class Letters:
    vocab_size, eos_id = None, None

    def encode(self, text):
        return [ord(c) - 97 for c in text]

    def decode_bytes(self, ids):
        return bytes(97 + int(i) % 26 for i in ids)


def test_lmx_load_generates_as_the_engine_does(folder):
    loaded = load(folder)
    rows = [[5, 6, 7], [5, 6, 7], [8, 9, 10]]
    one = loaded.generate(rows, 6, temperature=1.0, seed=3)
    assert one.shape == (3, 9)
    assert (one[0] != one[1]).any()  # the same prompt again is drawn anew
    assert (loaded.generate(rows[2:], 6, temperature=1.0, seed=3) == one[2:]).all()  # whatever else there is
    punished = loaded.generate([[5, 6, 7]], 40, repetition_penalty=50.0)[0, 3:].tolist()
    assert len(set(punished)) == len(punished)
    ended = loaded.generate([[5, 6, 7]], 6, eos_id=int(loaded.generate([[5, 6, 7]], 6)[0, 5]))[0, 3:].tolist()
    assert ended[2:] == [ended[2]] * 4
    with pytest.raises(ValueError, match="logprobs: generate returns ids alone"):
        loaded.generate(rows, 6, logprobs=2)
    with pytest.raises(ValueError, match="stop: texts need a tokenizer"):
        loaded.generate(rows, 6, stop=["a"])
    loaded.tokenizer, loaded._engine = Letters(), None
    text = Letters().decode_bytes(loaded.generate([[5, 6, 7]], 12)[0, 3:]).decode()
    cut = loaded.generate([[5, 6, 7]], 12, stop=[text[4:6]], eos_id=0)[0, 3:]
    assert (cut == 0).any()
    assert text[4:6] not in Letters().decode_bytes(cut[: int(np.argmax(cut == 0))]).decode()


def test_lmx_load_goes_on_with_texts(folder):
    loaded = load(folder)
    with pytest.raises(ValueError, match=r"m\.complete\(\[text\], n\)"):
        loaded.generate("fgh", 6)
    with pytest.raises(ValueError, match="texts need a tokenizer"):
        loaded.complete(["fgh"], 6)
    loaded.tokenizer = Letters()
    with pytest.raises(ValueError, match=r"\['fgh'\] is a list of it"):
        loaded.complete("fgh", 6)
    ids_BT = loaded.generate([[5, 6, 7], [8, 9, 10]], 6)[:, 3:]
    assert loaded.complete(["fgh", "ijk"], 6) == [Letters().decode_bytes(row).decode() for row in ids_BT]
