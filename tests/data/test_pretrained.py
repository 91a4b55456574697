"""Tokenizers and chat templates of HuggingFace directories, against what their own library says."""

import base64
import json
import shutil

import numpy as np
import pytest
import yaml

from lmx.data.chat import Template
from lmx.data.huggingface_files import byte_level, write_tokenizer
from lmx.data.pretrained import IdsOnly, PretrainedTokenizer, open_tokenizer
from lmx.data.published_ranks import PUBLISHED
from lmx.data.tokenizer_config import Bytes
from tests.support import CONF, ROOT

FIXTURES = ROOT.parent / "shared" / "parity" / "tokenizers"
NAMES = ["bytelevel_chatml", "sentencepiece_llama"]

RANKS = ROOT.parent / "shared" / "data" / "tokenizers"
needs_ranks = pytest.mark.skipif(not RANKS.is_dir(), reason="the published ranks are not here")
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the parity fixtures are not here")


def opened(name):
    expected = json.loads((FIXTURES / name / "expected.json").read_text())
    return open_tokenizer(str(FIXTURES / name), vocab_size=expected["vocab_size"]), expected


@needs_fixtures
@pytest.mark.parametrize("name", NAMES)
def test_encodings(name):
    tokenizer, expected = opened(name)
    assert isinstance(tokenizer, PretrainedTokenizer)
    for case in expected["encodings"]:
        assert tokenizer.encode(case["text"]).tolist() == case["ids"], case["text"]
        assert tokenizer.encode_prompt(case["text"]).tolist() == case["ids_with_special"], case["text"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]
        assert tokenizer.decode_text(case["ids_with_special"]) == case["decoded_skip_special"]


@needs_fixtures
def test_added_tokens_beyond_the_vocabulary(tmp_path, caplog):
    """As Gemma 3's image token in its models of text alone: refused in a text, and nowhere else."""
    shutil.copytree(FIXTURES / NAMES[0], tmp_path / "it")
    size = opened(NAMES[0])[0].vocab_size
    told = json.loads((tmp_path / "it" / "tokenizer.json").read_text())
    token = dict(told["added_tokens"][-1], content="<image_soft_token>", id=size)
    told["added_tokens"].append(token)
    (tmp_path / "it" / "tokenizer.json").write_text(json.dumps(told))
    (tmp_path / "it" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, size + 7]}))
    tokenizer = open_tokenizer(str(tmp_path / "it"), vocab_size=size)
    assert tokenizer.encode("Hello").size
    assert tokenizer.token_bytes.shape == (size,)
    with pytest.raises(ValueError, match=f"<image_soft_token> has the id {size}, which the model has no"):
        tokenizer.encode("Hello <image_soft_token>")
    assert tokenizer.eos_ids == (1,)
    assert f"eos_token_id {size + 7} is beyond the vocabulary of {size}" in caplog.text
    with pytest.raises(ValueError, match="too small"):
        open_tokenizer(str(tmp_path / "it"), vocab_size=100)


@needs_fixtures
@pytest.mark.parametrize("name", NAMES)
def test_special_tokens(name):
    tokenizer, expected = opened(name)
    for kind in ("bos", "eos", "pad"):
        assert tokenizer.special_tokens.get(f"{kind}_token") == expected.get(f"{kind}_token")
    assert tokenizer.bos_id == expected["bos_token_id"]
    assert tokenizer.eos_id == expected["eos_token_id"]
    assert tokenizer.added_not_special == expected["added_not_special"]


@needs_fixtures
@pytest.mark.parametrize("name", NAMES)
def test_chats(name):
    tokenizer, expected = opened(name)
    for case in expected["chats"]:
        for form, prompt in (("plain", False), ("with_generation_prompt", True)):
            said = {"add_generation_prompt": prompt, "tools": case.get("tools")}
            if "error" in case[form]:
                with pytest.raises(ValueError, match="refuses"):
                    tokenizer.render_chat(case["messages"], **said)
                continue
            text = tokenizer.render_chat(case["messages"], **said)
            assert text == case[form]["text"]
            assert tokenizer.encode(text).tolist() == case[form]["ids"]


@needs_fixtures
def test_end_tokens_may_be_listed(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(FIXTURES / NAMES[0] / name, tmp_path / name)
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    assert open_tokenizer(str(tmp_path), vocab_size=600).eos_ids == (7,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 6], "top_p": 0.9}')
    tokenizer = open_tokenizer(str(tmp_path), vocab_size=600)
    assert tokenizer.eos_ids == (5, 6)
    assert tokenizer.generation["top_p"] == 0.9


@needs_fixtures
def test_a_template_beside_the_tokenizer_wins(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(FIXTURES / NAMES[0] / name, tmp_path / name)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    tokenizer = open_tokenizer(str(tmp_path), vocab_size=600)
    assert tokenizer.render_chat([{"role": "user", "content": "hi"}], add_generation_prompt=True) == "hi!"


@needs_fixtures
def test_add_bos_is_honoured(tmp_path):
    shutil.copyfile(FIXTURES / NAMES[1] / "tokenizer.json", tmp_path / "tokenizer.json")
    told = json.loads((FIXTURES / NAMES[1] / "tokenizer_config.json").read_text())
    for add in (True, False):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(told | {"add_bos_token": add}))
        tokenizer = open_tokenizer(str(tmp_path), vocab_size=643)
        ids = tokenizer.encode_prompt("a b")
        assert (ids[0] == tokenizer.bos_id) == add
        assert ids.tolist()[int(add) :] == tokenizer.encode("a b").tolist()


def test_templates_are_kept_in_a_sandbox():
    attack = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ValueError, match="template"):
        Template({"default": attack}, {}).render([], add_generation_prompt=False)


def test_a_template_that_refuses_is_quoted():
    template = Template({"default": "{{ raise_exception('roles must alternate') }}"}, {})
    with pytest.raises(ValueError, match="roles must alternate"):
        template.render([], add_generation_prompt=False)


def test_dialect_of_templates():
    source = (
        "{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}{% break %}{% endfor %}"
    )
    text = Template({"default": source}, {}).render([{"a": "\u00e9<"}, {}], add_generation_prompt=False)
    assert text == '{"a": "\u00e9<"}'


def test_without_files_there_are_ids_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"eos_token_id": [3, 99]}')
    tokenizer = open_tokenizer(str(tmp_path), vocab_size=10)
    assert isinstance(tokenizer, IdsOnly)
    assert tokenizer.eos_ids == (3,)
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        tokenizer.encode("text")


def test_bytes_are_written_for_the_other_library(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    ours = Bytes.model_validate({"vocab_size": 256}).build()
    assert write_tokenizer(tmp_path, Bytes.model_validate({"vocab_size": 256}), ours) is None
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "na\u00efve \U0001f600\n\t x"
    assert theirs.encode(text).ids == ours.encode(text).tolist()
    assert theirs.decode(theirs.encode(text).ids) == text


def test_ranks_are_written_for_the_other_library():
    tokenizers = pytest.importorskip("tokenizers")
    tiktoken = pytest.importorskip("tiktoken")
    words = ["th", "he", "the", " the", "in", "ing", "er", "ab", "abab"]
    ranks = {bytes([b]): b for b in range(256)} | {w.encode(): 256 + i for i, w in enumerate(words)}
    pattern = r" ?\p{L}+|[^\p{L}]"
    ours = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    theirs = tokenizers.Tokenizer.from_str(byte_level(ranks, pattern, {"<end>": 300}))
    for text in ("the thing in the ababab other", "abab  12 th\u00e9"):
        assert theirs.encode(text).ids == ours.encode_ordinary(text)
    assert np.asarray(theirs.encode("<end>").ids).tolist() == [300]


@needs_ranks
def test_published_ranks_in_a_directory(tmp_path):
    pytest.importorskip("tiktoken")
    shutil.copyfile(RANKS / "llama3.tiktoken", tmp_path / "tokenizer.model")
    alone = open_tokenizer(str(tmp_path), vocab_size=128256)
    assert alone.encode_prompt("12345").tolist() == [128000, *alone.encode("123"), *alone.encode("45")]
    assert (alone.eos_ids, len(alone.specials)) == ((128001,), 256)
    assert alone.specials["<|eot_id|>"] == 128009
    assert alone.specials["<|reserved_special_token_247|>"] == 128255
    template = "{{ bos_token }}{{ messages[0].content }}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [128001, 128009]}')
    tokenizer = open_tokenizer(str(tmp_path), vocab_size=128256)
    assert tokenizer.eos_ids == (128001, 128009)
    assert tokenizer.render_chat([{"content": "hi"}], add_generation_prompt=True) == "<|begin_of_text|>hi"
    folder = tmp_path / "gpt2"
    folder.mkdir()
    shutil.copyfile(RANKS / "gpt2.tiktoken", folder / "gpt2.tiktoken")
    tokenizer = open_tokenizer(str(folder), vocab_size=50257)
    assert tokenizer.encode_prompt("Hello world 12345").tolist() == [15496, 995, 17031, 2231]
    assert tokenizer.eos_ids == (50256,)


@pytest.mark.parametrize("known", PUBLISHED.values())
def test_published_ranks_are_cut_as_the_options_cut(known):
    name = "gpt2" if known.bos is None else "llama3"
    option = yaml.safe_load((CONF / "tokenizer" / f"{name}.yaml").read_text())
    assert (known.pattern, known.bos, known.eos) == (option["pattern"], option["bos"], option["eos"])
    assert option["specials"].items() <= known.specials.items()


def test_ranks_of_no_known_pattern_are_refused(tmp_path):
    lines = [base64.b64encode(bytes([b])) + b" %d" % b for b in range(256)]
    (tmp_path / "tokenizer.model").write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=r"256 ranks that are neither(.|\n)*tokenizer=tiktoken"):
        open_tokenizer(str(tmp_path), vocab_size=260)


def test_sentencepiece_alone_is_refused(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00")
    with pytest.raises(ValueError, match=r"tokenizer\.model, but no tokenizer\.json(.|\n)*save_pretrained"):
        open_tokenizer(str(tmp_path), vocab_size=10)
