"""JSON lines: torn ones are passed over, damaged ones are named by file and line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.config.errors import RequestError
from lmx.io.lines import is_count, misfit, parse_lines, read_lines
from lmx.io.sinks import LineFile

RECORDS = [{"step": n, "text": f"two\nlines, é \u2028 {n}", "x": [1.5, None, {"y": "}"}]} for n in range(4)]


def step(record):
    return misfit(record, {"step": is_count})


@given(st.integers(0, 3), st.integers(0, 80))
def test_a_line_cut_short_anywhere_is_passed_over(number, at):
    whole = [json.dumps(record, ensure_ascii=False).encode() for record in RECORDS]
    torn = whole[number][: min(at, len(whole[number]) - 1)]
    lines = [*whole[:number], torn, *whole[number:]]
    found = parse_lines(b"\n".join(lines), "a")
    if torn.endswith(b"}"):  # of an object inside
        assert found.bad == (f"a:{number + 1}: not a line of JSON",)
    else:
        assert found == (RECORDS, ())


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"step": 1,, }', "not a line of JSON"),
        (b'{"step": 1, "\xff": 2}', "not a line of JSON"),
        (b'[{"step": 1}, {}}', "not a line of JSON"),
        (b"[" * 50_000 + b"}", "not a line of JSON"),
        (b'{"steps": 1}', "no `step`"),
        (b'{"step": "1"}', '`step` cannot be "1"'),
        (b'{"step": NaN}', "`step` cannot be NaN"),
    ],
)
def test_a_damaged_line_is_named_and_the_others_are_read(tmp_path, line, why):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    found = read_lines(path, step)
    assert found == ([{"step": 1}, {"step": 3}], (f"{path}:2: {why}",))
    with pytest.raises(RequestError, match=r"a\.jsonl:2: .*remove the line"):
        found.sound()


def test_what_is_not_there_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "none").sound() == []


def test_a_line_after_one_that_a_kill_cut_short_is_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    for record in ({"step": 2}, {"step": 3}):
        file = LineFile(path, print)
        file.write(json.dumps(record))
        file.close()
    assert read_lines(path, step) == ([{"step": 1}, {"step": 2}, {"step": 3}], ())
