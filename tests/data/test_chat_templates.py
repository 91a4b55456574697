"""Chat templates with all that published ones use; the texts are those of transformers."""

from __future__ import annotations

from datetime import datetime

import pytest

from lmx.data.chat import Template, as_message

TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": "<é>"}}}
SAID = [{"role": "user", "content": "hi"}]
TURNS = [
    *SAID,
    {"role": "assistant", "content": "yes", "reasoning_content": "hm"},
    {"role": "user", "content": "so"},
]

LLAMA = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{%- for message in messages %}
    {{- '<' + message['role'] + '>' + message['content'] | trim }}
{%- endfor %}
"""
QWEN = """{%- if tools %}
    {{- '<tools>' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == "user" and message.content is string %}
        {%- set ns.last = messages|length - loop.index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- endif %}
        {{- '[' + reasoning_content.strip('\\n') + ']' + message.content.split('</think>')[-1].lstrip('\\n') }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
SMOLLM = """{%- if enable_thinking is not defined -%}
{%- set enable_thinking = true -%}
{%- endif -%}
{%- set mode = "/think" if enable_thinking else "/no_think" -%}
{%- if xml_tools or (tools and not python_tools) -%}{{- "tools " ~ (tools or xml_tools)|length -}}{%- endif -%}
{%- set today = strftime_now("%Y") -%}
{{- mode }} {{ today }}
{% for message in messages -%}
    {%- if message.role == "assistant" -%}
        {% generation %}
        {%- if mode == "/think" -%}
            {{ "<a>" + message.content.lstrip("\\n") + "</a>\\n" }}
        {%- else -%}
            {{ "<n>" + message.content + "</n>" }}
        {%- endif -%}
        {% endgeneration %}
    {%- else -%}
        {{ message.role }}:{{ message.content }}|
    {%- endif -%}
{%- endfor -%}"""
GPT_OSS = """{%- macro kind(spec) -%}
    {%- if spec.type == "array" -%}{{- kind(spec['items']) + "[]" -}}{%- else -%}{{- spec.type -}}{%- endif -%}
{%- endmacro -%}
{%- set model_identity = model_identity if model_identity is defined else "You are ChatGPT." -%}
{{- model_identity + "\\nReasoning: " + (reasoning_effort or "medium") + "\\n" }}
{%- for tool in tools or [] %}{{- kind({"type": "array", "items": {"type": "string"}}) }}{%- endfor %}
{%- for message in messages -%}
    {%- if message.role == "assistant" -%}
        {%- if "<|channel|>analysis<|message|>" in message.content -%}
            {{- raise_exception("You have passed a message containing <|channel|> tags in the content field.") }}
        {%- endif -%}
        {%- if "thinking" in message %}{{- "analysis:" + message.thinking }}{%- endif %}
        {{- "final:" + message.content }}
    {%- else -%}
        {{- message.role + ":" + message.content + ";" }}
    {%- endif -%}
{%- endfor -%}"""


def render(source, messages, **given):
    return Template({"default": source}, TOKENS).render(messages, **{"add_generation_prompt": True} | given)


def test_llama_date_and_tools():
    system = {"role": "system", "content": " Be brief. "}
    assert render(LLAMA, [system, *SAID], date_string="1 May 2025") == (
        "<bos>Today Date: 1 May 2025\n\nBe brief.<user>hi"
    )
    assert f"Today Date: {datetime.now():%d %b %Y}\n" in render(LLAMA, SAID)
    wanted = '{\n    "type": "function",\n    "function": {\n        "name": "f",\n        "parameters": {\n'
    given = render(LLAMA, SAID, tools=[TOOL], date_string="x")
    assert given.startswith("<bos>Today Date: x\n\n" + wanted)
    assert '"z": 1,\n            "a": "<é>"\n' in given  # keys in their order, nothing escaped
    assert render(LLAMA, SAID, custom_tools=[TOOL], date_string="x") == given


def test_qwen_thinking():
    asked = "<|im_start|>user\nhi[hm]yes<|im_start|>user\nso<|im_start|>assistant\n"
    assert render(QWEN, TURNS) == asked == render(QWEN, TURNS, enable_thinking=True)
    assert render(QWEN, TURNS, enable_thinking=False) == asked + "<think>\n\n</think>\n\n"
    tool = '{"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": "<é>"}}}'
    assert render(QWEN, SAID, tools=[TOOL]).startswith(f"<tools>\n{tool}<|im_start|>")


def test_smollm_generation_blocks():
    year = f"{datetime.now():%Y}"
    assert render(SMOLLM, TURNS) == f"/think {year}\nuser:hi|<a>yes</a>\nuser:so|"
    assert render(SMOLLM, TURNS, enable_thinking=False) == f"/no_think {year}\nuser:hi|<n>yes</n>user:so|"
    assert render(SMOLLM, SAID, xml_tools=[TOOL]).startswith("tools 1/think")


def test_gpt_oss_channels():
    head = "You are ChatGPT.\nReasoning: medium\n"
    assert render(GPT_OSS, TURNS) == head + "user:hi;analysis:hmfinal:yesuser:so;"
    assert "Reasoning: high\nstring[]user:hi;" in render(
        GPT_OSS, SAID, tools=[TOOL], reasoning_effort="high", model_identity="I"
    )
    reply = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes"
    with pytest.raises(ValueError, match=r"containing <.channel.> tags"):
        render(GPT_OSS, [*SAID, {"role": "assistant", "content": reply}])
    split = as_message(reply)
    assert split == {"role": "assistant", "content": "yes", "thinking": "hm"}
    assert render(GPT_OSS, [*SAID, split]) == head + "user:hi;analysis:hmfinal:yes"
    assert as_message("plain <b>")["content"] == "plain <b>"


def test_a_variable_that_changes_nothing_is_refused():
    with pytest.raises(ValueError, match=r"no variable enable_thinkin; it has .*enable_thinking"):
        render(QWEN, SAID, enable_thinkin=False)
    with pytest.raises(ValueError, match="no variable tools; it has none"):
        render("{{ messages[0].content }}", SAID, tools=[TOOL])


@pytest.mark.parametrize("source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"])
def test_nothing_outside_is_in_reach(source):
    with pytest.raises(ValueError, match="refuses"):
        render(source, SAID)
