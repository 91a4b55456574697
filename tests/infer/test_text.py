"""Streams of text: whole characters only, and nothing that a stop text may yet cut off."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.data.pretrained import open_tokenizer
from lmx.infer.text import TextStream
from tests.support import ROOT

FIXTURES = ROOT.parent / "shared" / "parity" / "tokenizers"


class Bytes:
    def decode_bytes(self, ids):
        return bytes(int(i) for i in ids)


@given(st.text(max_size=20), st.lists(st.integers(1, 4), max_size=30))
def test_pieces_join_to_the_text_and_never_cut_a_character(text, sizes):
    data, stream, shown = list(text.encode()), TextStream(Bytes(), []), ""
    for size in [*sizes, 1000]:
        piece = stream.push(data[:size])
        data = data[size:]
        assert "\ufffd" not in piece or "\ufffd" in text
        shown += piece
    assert shown + stream.finish() == text == stream.text


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=2))
def test_stop_texts_cut_at_their_first_place(text, stops):
    stream, shown = TextStream(Bytes(), [120], stops), ""
    for i in text.encode():
        shown += stream.push([i])
    shown += stream.finish()
    places = []
    for end in range(len(text) + 1):  # as soon as one is there, at its beginning
        places = [text[:end].find(s) for s in stops if text[:end].find(s) >= 0]
        if places:
            break
    expected = text[: min(places)] if places else text
    assert shown == stream.text == expected
    assert stream.stopped == bool(places)
    assert stream.kept == (len(expected) if places else len(text))


def test_an_unfinished_character_becomes_a_replacement_at_the_end():
    stream = TextStream(Bytes(), [])
    assert stream.push([0x61, 0xE2, 0x82]) == "a"
    assert stream.finish() == "\ufffd"


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the parity fixtures are not here")
@pytest.mark.parametrize("name", ["bytelevel_chatml", "sentencepiece_llama"])
def test_tokenizers_that_decode_to_text_show_whole_characters_only(name):
    """Whose tokens are parts of characters: an emoji is four bytes, each a token of its own."""
    size = json.loads((FIXTURES / name / "expected.json").read_text())["vocab_size"]
    tokenizer = open_tokenizer(str(FIXTURES / name), vocab_size=size)
    text = "na\u00efve \U0001f600\U0001f680 \u65e5\u672c\u8a9e, end"
    ids = tokenizer.encode(text).tolist()
    assert len(ids) > len(text)
    stream, shown = TextStream(tokenizer, []), []
    for i in ids:
        shown.append(stream.push([i]))
    shown.append(stream.finish())
    assert "".join(shown) == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in shown)
    assert "\U0001f600" in shown
