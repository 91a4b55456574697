"""Chat templates: a conversation to the text that a model was taught to read, by jinja2 in its sandbox."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmx.config.foreign import cut

_FAILURES = (ArithmeticError, AttributeError, LookupError, SyntaxError, TypeError, ValueError)
_TOO_MUCH = (MemoryError, RecursionError)


class Template:
    """A model's chat template; `sources` by name, `default` for most and `tool_use` where there are tools.

    `file` is where it stands, for messages.
    """

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str], file: Any = None):
        self.sources, self._tokens = dict(sources), dict(special_tokens)
        self._name = "the chat template" if file is None else f"the chat template in {file}"

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Any = None,
        **variables: Any,
    ) -> str:
        """The text; ValueError with the template's own words where it refuses the conversation, fails, or would take
        more time or memory than a conversation can be worth.

        `variables` are the template's own (enable_thinking, date_string, ...); ValueError for one that it has not.
        """
        import jinja2

        from lmx.data.chat_sandbox import Sandbox

        name = "tool_use" if tools is not None and "tool_use" in self.sources else "default"
        if name not in self.sources:
            raise ValueError(f"{self._name} has no {name} form; it has {', '.join(self.sources)}")
        try:
            environment = Sandbox()
            self._check_variables(
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
        except jinja2.TemplateSyntaxError as error:
            words = cut(str(error), 500)
            raise ValueError(f"{self._name} is no jinja2: line {error.lineno}: {words}") from None
        except jinja2.TemplateError as error:
            words = cut(str(error), 500)
            raise ValueError(f"{self._name} refuses this conversation: {words}") from None
        except _WrongVariable as error:
            raise ValueError(str(error)) from None
        except _FAILURES as error:
            words = cut(f"{type(error).__name__}: {error}", 500)
            raise ValueError(f"{self._name} fails on this conversation: {words}") from None
        except _TOO_MUCH as error:
            words = "nests without end" if isinstance(error, RecursionError) else "needs too much memory"
            raise ValueError(f"{self._name} fails on this conversation: it {words}") from None

    def _check_variables(self, environment: Any, source: str, given: Mapping[str, Any]) -> None:
        """_WrongVariable for one that changes nothing."""
        from jinja2 import meta

        known = meta.find_undeclared_variables(environment.parse(source)) - set(environment.globals)
        for name in given:
            if name not in known:
                own = sorted(known - {"messages", "add_generation_prompt"})
                raise _WrongVariable(
                    f"{self._name} has no variable {name}; it has {', '.join(own) or 'none'}"
                )


class _WrongVariable(ValueError):
    pass


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
