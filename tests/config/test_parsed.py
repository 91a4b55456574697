"""Parsed files are kept, and read again where they changed."""

from __future__ import annotations

import pytest
import yaml

from lmx.config.parsed import FileConfigSource, content


def test_what_is_read_is_an_object_of_its_own(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text("a: {b: 1e-3}\n")
    first = content(path)
    first["a"]["b"] = 7
    assert content(path) == {"a": {"b": 0.001}}
    source = FileConfigSource("test", str(tmp_path))
    source.load_config("one").config.a.b = 8
    assert source.load_config("one").config == {"a": {"b": 0.001}}


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text("a: 1\n")
    assert content(path) == {"a": 1}
    path.write_text("# @package _global_\na: 12\n")
    assert content(path) == {"a": 12}
    assert FileConfigSource("test", str(tmp_path)).load_config("one").header["package"] == "_global_"


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: 1\na: 2\n", "duplicate key a"), ("a:\n\t- 1\n", "cannot start any token"), ("a: [1\n", "expected")],
)
def test_what_is_no_yaml_is_told_in_the_words_of_its_scanner_with_its_place(tmp_path, text, words):
    path = tmp_path / "one.yaml"
    path.write_text(text)
    with pytest.raises(yaml.MarkedYAMLError, match=words) as raised:
        content(path)
    assert raised.value.problem_mark.name == str(path)
