"""Ranks of tiktoken: damaged lines, and ids that claim a vocabulary of terabytes."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.data.byte_pairs import build_tiktoken
from tests.fuzz.support import answer, cases, damaged_bytes

PATTERN = r"\s?\w+|\s+|."
LINES = [base64.b64encode(bytes([b])) + b" %d" % b for b in range(256)] + [base64.b64encode(b"th") + b" 256"]


def use(path, pattern=PATTERN, specials=None, vocab_size=300):
    tokenizer = build_tiktoken(
        encoding=None,
        path=str(path),
        pattern=pattern,
        specials={"<|end|>": 257} if specials is None else specials,
        vocab_size=vocab_size,
        eos=None,
        bos=None,
    )
    assert tokenizer.token_bytes.shape == (vocab_size,)
    ids = tokenizer.encode("the thing, é \ud800")
    assert len(ids) == 0 or (ids.min() >= 0 and ids.max() < vocab_size)
    tokenizer.decode(ids)
    return tokenizer


@given(data=st.data())
@cases()
def test_damaged_ranks(data, tmp_path):
    file = tmp_path / "a.tiktoken"
    file.write_bytes(data.draw(damaged_bytes(b"\n".join(LINES))))
    answer(lambda: use(file))


@given(
    changes=st.lists(st.tuples(st.sampled_from(LINES), st.integers(-(2**70), 2**70)), min_size=1, max_size=3)
)
@cases()
def test_ranks_of_any_number(changes, tmp_path):
    lines = list(LINES)
    for line, rank in changes:
        lines[LINES.index(line)] = line.split()[0] + b" %d" % rank
    file = tmp_path / "a.tiktoken"
    file.write_bytes(b"\n".join(lines))
    answer(lambda: use(file))


@given(pattern=st.text(alphabet=r"()[]{}|\?*+.^$a1,:=!<>sSwWdpPLN-", max_size=12))
@cases()
def test_any_pattern(pattern, tmp_path):
    file = tmp_path / "a.tiktoken"
    file.write_bytes(b"\n".join(LINES))
    answer(lambda: use(file, pattern))


@pytest.mark.parametrize("rank", ["-1", "18446744073709551616", "4294967296", "1_0", "٣"])
def test_a_rank_that_is_none(tmp_path, rank):
    file = tmp_path / "a.tiktoken"
    file.write_text(b"\n".join(LINES[:-1]).decode() + f"\ndGg= {rank}")
    with pytest.raises(ValueError, match="tokenizer"):
        use(file)
