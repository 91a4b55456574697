"""Free text on the command line comes through the grammar of overrides as it was typed."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lmx.config.overrides import quote, taken_literally, write_override, write_value

PARSER = OverridesParser.create()


def read(word):
    override = PARSER.parse_override(word)
    return OmegaConf.create({"value": override.value()}).value


@given(st.text(st.sampled_from("ab1 \\\"'${}[](),:=\n\té"), max_size=20))
def test_quoted_text_is_read_back_as_it_is(text):
    assert str(read(f"prompt={quote(text)}")) == text


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.sampled_from("aN1_ .\\\"'{}[](),:=+-\n\té"), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.sampled_from("ab1 \\[](){}:=,"), min_size=1).map(lambda k: f"k{k}"), inner
        )
    ),
    max_leaves=5,
)


@given(values)
def test_a_written_value_is_read_back_as_it_is(value):
    assert PARSER.parse_override(f"key={write_value(value)}").value() == value


@pytest.mark.parametrize(
    "text", [r"C:\books\new", "a\\", r"\p{L}+|\s", r"\\server", "nan", "-inf", "1_0e1_0", "é"]
)
def test_a_pasted_fix_keeps_the_text(text):
    (word,) = shlex.split(write_override("data.path", text))
    assert read(word) == text


@pytest.mark.parametrize("text", ["${name}", "runs/${name}/${now:%H}", r"a\b ${x}"])
def test_a_written_value_keeps_its_interpolations(text):
    assert PARSER.parse_override(f"key={write_value(text)}").value() == text


@pytest.mark.parametrize("text", ["def ", "Hello, world", "f(x) = [1, {2}]", "${x}", "ROMEO:", "12", "it's"])
def test_a_prompt_needs_no_quotes(text):
    assert read(taken_literally(f"prompt={text}", ("prompt",))) == text


@pytest.mark.parametrize(
    "word", ["prompt=", "prompt=null", 'prompt="a, b"', "prompt='a'", "stop=a,b", "prompt"]
)
def test_what_is_in_quotes_or_no_text_stays(word):
    assert taken_literally(word, ("prompt",)) == word
