"""Chat templates that want out of their sandbox, or more time and memory than there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.data.chat import Template
from tests.fuzz.support import answer, cases

MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]

TEXT = """
{{ }} {% %} {# #} for if else endif endfor in set macro endmacro call range messages loop.last not 0 1 [0] ['x']
| tojson trim join ( ) . __class__ __mro__ __globals__ namespace cycler lipsum self raise_exception strftime_now '%' -1
~ * ** // % 'a' {} [] = == generation endgeneration break continue include import replace center indent sum format
"""
WORDS = st.sampled_from(TEXT.split())


@given(st.lists(WORDS | st.text(max_size=4), max_size=12).map(" ".join), st.booleans())
@cases(2)
def test_random_templates(source, inside):
    source = "{{ " + source + " }}" if inside else source
    template = Template({"default": source}, {"eos_token": "<|b|>"})
    answer(lambda: template.render(MESSAGES, add_generation_prompt=True))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['__builtins__'] }}",
        "{{ (messages | map(attribute='__class__') | first).__mro__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__['os'] }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ '{m.__class__}'.format_map({'m': messages}) }}",
        "{% set x = messages.append(1) %}",
        "{{ messages | tojson(default=raise_exception.__globals__) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.name }}",
    ],
)
def test_nothing_outside_the_conversation_is_in_reach(source):
    template = Template({"default": source}, {}, "a/tokenizer_config.json")
    try:
        assert template.render([*MESSAGES], add_generation_prompt=True) == ""  # of what is not there
    except ValueError as error:
        assert "the chat template in a/tokenizer_config.json" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10**12) %}x{% endfor %}",
        "{{ 'x' * 10**11 }}",
        "{{ 10 ** (10 ** 8) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ([0] * 10**11) | length }}",
        "{{ 'x'.ljust(10**11) }}",
        "{{ 'x' | center(10**11) }}",
        "{{ (" + "(" * 5000 + "1" + ")" * 5000 + ") }}",
        "{{ messages | tojson(indent=10**10) }}",
        "{{ 1 / 0 }}",
        "{{ messages[0]['content'].encode('no such') }}",
        "{{ strftime_now('\\ud800') }}",
        "{% for a in range(10**5) %}{% for b in range(10**5) %}{% endfor %}{% endfor %}",
        "{% set r = range(9**5) %}{% for a in r %}{% for b in r %}{% if 0 %}{% endif %}{% endfor %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for a in range(99) %}{% set n.x = '%s%s' % (n.x, n.x) %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for a in range(99) %}{% set n.x = '{0}{0}'.format(n.x) %}{% endfor %}",
        "{% set n = namespace(x='aa') %}{% for a in range(99) %}{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
        "{% set n = namespace(x='aa') %}{% for a in range(99) %}{% set n.x = n.x | replace('a', n.x) %}{% endfor %}",
        "{% set n = namespace(x='aa') %}{% for a in range(99) %}{% set n.x = n.x.join(n.x) %}{% endfor %}",
        "{% set n = namespace(x='aa') %}{% for a in range(99) %}{% set n.x = n.x | join(n.x) %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for a in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=[1]) %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=9) %}{% for a in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% set x %}{% for a in range(10**5) %}{{ messages[0].content * 999 }}{% endfor %}{% endset %}",
        "{{ ([[1] * 9999] * 9999) | sum(start=[]) | length }}",
        "{{ '\\n' * 9999 | indent(99999) }}",
        "{{ ('\\n' * 9999) | indent('x' * 9999) }}",
        "{{ ('x' * 9999) | wordwrap(1, wrapstring='y' * 9999) }}",
        "{{ [1] | batch(10**8, 'x') | list }}",
        "{{ [1] | slice(10**8) | list }}",
        "{{ 1.5 | round(10**7, 'ceil') }}",
        "{{ ('\\t' * 9999).expandtabs(99999) }}",
        "{{ (1).to_bytes(10**10, 'big') }}",
        "{{ ('a' * 9999).translate({97: 'x' * 9999}) }}",
        "{{ '%*d' % (10**10, 1) }}",
        "{{ '{:{w}}'.format(1, w=10**10) }}",
        "{{ '%99999d' * 9999 % ((1,) * 9999) }}",
        "{% macro f(n) %}{% for i in range(n) %}{{ f(n - 1) }}{% endfor %}{% endmacro %}{{ f(20) }}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    ],
)
def test_what_would_take_all_memory_is_refused(source):
    assert (
        answer(lambda: Template({"default": source}, {}).render(MESSAGES, add_generation_prompt=True)) is None
    )


def test_what_a_long_conversation_needs_is_there():
    messages = [{"role": "user", "content": "some words\n" * 50_000}] * 4
    source = (
        "{% set n = namespace(t='') %}{% for m in messages %}{% set n.t = n.t ~ m.role %}"
        "{{ ('<' + m['content'] | trim ~ '>').replace('some', 'any') | indent(2) }}"
        "{{ m | tojson(indent=2) }}{% endfor %}"
    )
    assert len(Template({"default": source}, {}).render(messages, add_generation_prompt=True)) > 4_000_000
