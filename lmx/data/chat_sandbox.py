"""The dialect of jinja2 that chat templates are written in, with nothing outside the conversation in reach.

jinja2's own sandbox keeps a template from what it must not see. It does not keep it from `'x' * 10**11`, loops in
loops, or filters that fill: here every step, and every character that a step makes, is paid out of one budget *before*
it is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

BUDGET = 1 << 25
"""Characters that a rendering may make, also those that it throws away again: some times the longest conversation."""
_ROUND, _STEP = 256, 16
"""What a round of a loop costs, and a call, a filter or an output, in characters."""
_REFERENCE = 8
"""What an entry of a list costs, in characters."""
_LARGEST = 10**6
"""The largest number that may say how wide, how often or how deep."""


class Exceeded(TemplateError):
    """A template that would take more time or memory than a conversation can be worth."""

    def __init__(self) -> None:
        super().__init__("it makes more text than any conversation needs, or never ends")


class Sandbox(ImmutableSandboxedEnvironment):
    """For one rendering: what it costs adds up."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # what is constant would be worked out before anyone pays for it
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
            finalize=_paid,
        )
        self.left = BUDGET
        self.filters = {name: self._priced(name, made) for name, made in self.filters.items()}
        self.filters["tojson"] = self._to_json
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)

    def pay(self, price: int) -> None:
        """Takes `price` characters of what is left; Exceeded where that is not enough."""
        self.left -= price
        if self.left < 0:
            raise Exceeded

    def tick(self, text: int) -> None:
        """A round of a loop, or a call of a macro, with so much text of its own."""
        self.pay(_ROUND + text)

    def concatenate(self, *parts: Any) -> str:
        """What `~` gives."""
        self.pay(sum(self.weigh(part) for part in parts))
        return "".join(map(str, parts))

    def weigh(self, value: Any) -> int:
        """At most how many characters a value is as text, and what looking at it costs; no more than can be paid."""
        total, waiting = 0, [value]
        while waiting and total <= self.left:
            one = waiting.pop()
            if isinstance(one, str | bytes):
                total += len(one) + 2
            elif isinstance(one, Mapping):
                total += 2 * _STEP * (1 + len(one))
                waiting += [*one.keys(), *one.values()]
            elif isinstance(one, list | tuple | set | frozenset):
                total += _STEP * (1 + len(one))
                waiting += one
            else:
                total += one.bit_length() // 3 if isinstance(one, int) else _STEP
        return total

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Metered().visit(super()._parse(source, name, filename))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """The result of an operator, paid for."""
        if isinstance(left, int | float) and isinstance(right, int | float):
            _check_numbers(operator, left, right)
        elif operator == "%":
            self.pay(self._formatted(left, right))
        elif operator == "*":
            times, what = (left, right) if isinstance(left, int) else (right, left)
            self.pay(max(times, 0) * _entries(what) if isinstance(times, int) else 0)
        else:
            self.pay(_entries(left) + _entries(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """The result of a call, paid for."""
        owner = getattr(__obj, "__self__", None)
        price = _STEP
        if isinstance(owner, str | bytes | int | float) and __obj is not owner:
            price += __self._method(owner, getattr(__obj, "__name__", ""), args, kwargs)
        __self.pay(price)
        found = super().call(__context, __obj, *args, **kwargs)
        __self.pay(_entries(found) if isinstance(found, list | tuple) else 0)
        return found

    def _method(self, owner: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """What a method of a text or a number may make."""
        given = [*args, *kwargs.values()]
        _check_sizes(given)
        length = len(owner) if isinstance(owner, str | bytes) else _STEP
        if name == "replace" and len(given) > 1:
            return _replaced(owner, given[0], given[1])
        if name in ("join", "translate"):
            return sum(self.weigh(value) + length * _count(value) for value in given)
        if name in ("format", "format_map"):
            return self._formatted(owner, given)
        if name == "expandtabs":
            return length * max([8, *(abs(n) for n in given if isinstance(n, int))])
        return length + sum(abs(n) if isinstance(n, int) else _entries(n) for n in given)

    def _formatted(self, form: Any, given: Any) -> int:
        """What `form % given`, or `form.format(given)`, may make; Exceeded where widths are given as values."""
        if not isinstance(form, str | bytes):
            return _STEP
        text = form if isinstance(form, str) else form.decode("latin-1")
        if re.search(r"%[^%a-zA-Z]*\*|\{[^{}]*\{", text):
            raise Exceeded
        widths = [int(n[:12]) for n in re.findall(r"\d+", text)]
        values = text.count("%") + text.count("{")
        return len(text) + sum(widths) + values * self.weigh(given)

    def _priced(self, name: str, made: Callable[..., Any]) -> Callable[..., Any]:
        """A filter whose result is paid for before it is made, as far as that can be told, or else after."""

        @wraps(made)  # with the mark of what jinja2 hands it first
        def priced(*args: Any, **kwargs: Any) -> Any:
            given = args[1:] if hasattr(made, "jinja_pass_arg") else args
            self.pay(_STEP + self._filtered(name, given[0] if given else "", [*given[1:], *kwargs.values()]))
            found = made(*args, **kwargs)
            self.pay(_entries(found) if isinstance(found, list | tuple) else 0)
            return found

        return priced

    def _filtered(self, name: str, value: Any, given: list[Any]) -> int:
        _check_sizes(given)
        weight = self.weigh(value)
        if name == "sum" and any(isinstance(start, list | tuple) for start in given):
            raise Exceeded
        if name == "replace" and len(given) > 1 and isinstance(value, str):
            return _replaced(value, given[0], given[1])
        if name == "join":
            return weight + _count(value) * sum(map(self.weigh, given))
        if name == "format":
            return self._formatted(value, given)
        if name in ("indent", "wordwrap"):
            lines = 1 + (str(value).count("\n") if name == "indent" else weight)
            return weight + lines * sum(
                n if isinstance(n, int) and name == "indent" else _entries(n) for n in given
            )
        if name in ("batch", "slice", "center"):
            return weight + _REFERENCE * sum(n for n in given if isinstance(n, int) and n > 0)
        if name == "round" and any(isinstance(n, int) and abs(n) > 300 for n in given):
            raise Exceeded
        return weight

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """As of transformers: nothing is escaped for HTML."""
        _check_sizes([indent])
        space = indent if isinstance(indent, int) else _entries(indent or "")
        self.pay(self.weigh(value) * (2 + max(space, 0)))
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's words for training: shown as they are."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        """The block's statements."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Metered(NodeTransformer):
    """Puts a `tick` into loops and macros, and `concatenate` in the place of `~`."""

    def visit_For(self, node: Any) -> Any:
        """A round costs its own text."""
        return self._ticking(node)

    visit_Macro = visit_CallBlock = visit_For

    def _ticking(self, node: Any) -> Any:
        text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        tick = _call("tick", [nodes.Const(text)], node.lineno)
        node = self.generic_visit(node)
        node.body = [nodes.ExprStmt(tick, lineno=node.lineno), *node.body]
        return node

    def visit_Concat(self, node: Any) -> Any:
        """`a ~ b` as a call."""
        node = self.generic_visit(node)
        return _call("concatenate", node.nodes, node.lineno)


def _call(name: str, args: list[Any], line: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name, lineno=line), args, [], None, None, lineno=line)


@pass_context
def _paid(context: Any, value: Any) -> Any:
    """What is put out, paid for."""
    sandbox: Sandbox = context.environment
    sandbox.pay(_STEP + sandbox.weigh(value))
    return value


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _entries(value: Any) -> int:
    """What copying a value costs."""
    if isinstance(value, str | bytes):
        return len(value)
    return _REFERENCE * len(value) if isinstance(value, list | tuple | Mapping) else 1


def _count(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else _LARGEST


def _replaced(text: Any, old: Any, new: Any) -> int:
    if not (isinstance(text, str) and isinstance(old, str) and isinstance(new, str)):
        return _entries(text)
    return len(text) + text.count(old) * len(new)


def _check_sizes(given: list[Any]) -> None:
    """Exceeded for a number that is out of all proportion."""
    if any(isinstance(n, int) and abs(n) > _LARGEST for n in given):
        raise Exceeded


def _check_numbers(operator: str, left: float, right: float) -> None:
    """Exceeded where whole numbers become longer than anyone can read."""
    if not (isinstance(left, int) and isinstance(right, int)):
        return
    bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
    if operator in ("*", "**") and bits > 1 << 14:
        raise Exceeded
