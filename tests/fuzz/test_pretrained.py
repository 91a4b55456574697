"""A HuggingFace tokenizer and what lies beside it: each file damaged."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.data.huggingface_files import byte_level
from lmx.data.pretrained import open_tokenizer
from tests.fuzz.support import answer, cases, documents_or_bytes

CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] | trim }}"
    "{% if not loop.last %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
FILES = {
    "tokenizer_config.json": {
        "bos_token": "<|a|>",
        "eos_token": {"content": "<|b|>", "special": True},
        "add_bos_token": True,
        "chat_template": [{"name": "default", "template": CHAT}, {"name": "tool_use", "template": CHAT}],
        "added_tokens_decoder": {"256": {"content": "<|a|>"}},
    },
    "special_tokens_map.json": {"pad_token": "<|b|>"},
    "generation_config.json": {"eos_token_id": [257, 256], "temperature": 0.7, "top_k": 20},
    "config.json": {"eos_token_id": 257},
    "chat_template.json": {"chat_template": CHAT},
}
MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]


@pytest.fixture(scope="module")
def tokenizer_json() -> dict:
    ranks = {bytes([b]): b for b in range(256)}
    return json.loads(byte_level(ranks, r"\s?\w+|\s+|[^\s\w]+", {"<|a|>": 256, "<|b|>": 257}))


def use(folder, vocab_size: int = 300) -> None:
    tokenizer = open_tokenizer(str(folder), vocab_size=vocab_size)
    for i in (tokenizer.eos_id, tokenizer.bos_id, *getattr(tokenizer, "eos_ids", ())):
        assert i is None or isinstance(i, int)
    if (folder / "tokenizer.json").is_file():
        assert tokenizer.token_bytes.shape == (vocab_size,)
        tokenizer.encode("some text, \ud800 é")
    if getattr(tokenizer, "template", None) is not None:
        assert isinstance(tokenizer.render_chat(MESSAGES, add_generation_prompt=True), str)


@pytest.mark.parametrize("name", [*FILES, "tokenizer.json"])
def test_a_damaged_file(name, tmp_path, tokenizer_json):
    whole = FILES | {"tokenizer.json": tokenizer_json}
    for other, content in whole.items():
        if other != "chat_template.json":
            (tmp_path / other).write_text(json.dumps(content))
    if name == "chat_template.json":
        (tmp_path / "tokenizer_config.json").write_text("{}")
    use(tmp_path)

    @given(st.data())
    @cases(0.5)
    def check(data):
        (tmp_path / name).write_bytes(data.draw(documents_or_bytes(whole[name])))
        answer(lambda: use(tmp_path))

    check()
