"""Chat templates: a conversation to the text that a model was taught to read, by jinja2 in its sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any


class Template:
    """A model's chat template; `sources` by name, `default` for most and `tool_use` where there are tools."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]):
        self.sources, self._tokens = dict(sources), dict(special_tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Any = None,
        **variables: Any,
    ) -> str:
        """The text; ValueError with the template's own words where it refuses the conversation.

        `variables` are the template's own (enable_thinking, date_string, ...); ValueError for one that it has not.
        """
        import jinja2

        name = "tool_use" if tools is not None and "tool_use" in self.sources else "default"
        if name not in self.sources:
            raise ValueError(f"the chat template has no {name} form; it has {', '.join(self.sources)}")
        try:
            environment = _environment()
            _check_variables(
                environment, self.sources[name], {**variables, **({"tools": tools} if tools else {})}
            )
            return environment.from_string(self.sources[name]).render(
                messages=[_with_reasoning(m) for m in messages],
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._tokens,
                **variables,
            )
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template refuses this conversation: {error}") from None
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"the chat template fails on this conversation: {error}") from None


def _check_variables(environment: Any, source: str, given: Mapping[str, Any]) -> None:
    """ValueError for a variable that changes nothing."""
    from jinja2 import meta

    known = meta.find_undeclared_variables(environment.parse(source)) - set(environment.globals)
    for name in given:
        if name not in known:
            own = sorted(known - {"messages", "add_generation_prompt"})
            raise ValueError(f"the chat template has no variable {name}; it has {', '.join(own) or 'none'}")


_REASONING = ("reasoning_content", "thinking", "reasoning")


def _with_reasoning(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message whose reasoning goes by the names that templates read: `reasoning_content`, gpt-oss's `thinking`."""
    found = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if found is None else {"thinking": found, **message, "reasoning_content": found}


_CHANNEL = re.compile(
    r"<\|channel\|>(\w+)[^<]*<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)", re.S
)


def as_message(reply: str) -> dict[str, str]:
    """What a model wrote as a message: where it wrote in channels (gpt-oss), its reasoning apart from its answer."""
    parts = _CHANNEL.findall(reply)
    if not parts:
        return {"role": "assistant", "content": reply}
    told = {
        kind: "".join(text for channel, text in parts if (channel == "final") == (kind == "content"))
        for kind in ("content", "thinking")
    }
    return {"role": "assistant", **{kind: text for kind, text in told.items() if text or kind == "content"}}


def _environment() -> Any:
    """The dialect of jinja2 that chat templates are written in; nothing outside the conversation is in reach."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}...{% endgeneration %}` marks the assistant's words for training: shown as they are."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        knobs = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
        return json.dumps(value, ensure_ascii=ensure_ascii, **knobs)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
