"""`schedule`: the learning rate over the run, as a factor of `optimizer.learning_rate`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema

from lmx.config.component import Component, field
from lmx.config.types import Fraction, parse_real, parse_whole

Factor = Callable[[Any], Any]
"""Step (int32 [], 0 for the first update) -> factor of the peak learning rate (float32 [])."""

Shape = Literal["linear", "cosine", "sqrt", "square", "exponential"]

_SPELLINGS = 'write steps (100), a fraction of the run (0.02 or "2%"), or tokens ("20M tokens")'


def parse_span(value: Any) -> int | float | str:
    """A length: whole number = steps, number within (0, 1) or percentage = part of the run, text = tokens.

    Comes back as int (steps), float (fraction) or `"N tokens"`. 1.0 is refused: a step, or the whole run?
    """
    text = value.strip() if isinstance(value, str) else ""
    if text:
        if text.endswith("%"):
            share = parse_real(text[:-1].strip()) / 100
            if not 0 < share <= 1:
                raise ValueError(f"a percentage lies above 0% and up to 100%, got {value!r}; {_SPELLINGS}")
            return share
        match = re.fullmatch(r"(.*\S)\s*(steps?|tokens?)", text)
        if match:
            amount = _not_negative(parse_whole(match[1]), value)
            return amount if match[2].startswith("step") else f"{amount} tokens"
    if (isinstance(value, float) and value == 1) or re.fullmatch(r"1\.0*", text):
        raise ValueError(f'1.0 could be one step or the whole run: write 1 or "100%" ({_SPELLINGS})')
    try:
        number = parse_real(value)
    except ValueError:
        number = None
    if number is not None and 0 < number < 1:
        return number
    try:
        return _not_negative(parse_whole(value), value)
    except ValueError:
        raise ValueError(f"expected a length, got {value!r}; {_SPELLINGS}") from None


def _not_negative(amount: int, value: Any) -> int:
    if amount < 0:
        raise ValueError(f"a length cannot be negative, got {value!r}")
    return amount


_SPAN_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^\s*[\d.][\d_.eE+]*[kMBGT]?\s*(%|steps?|tokens?)?\s*$"},
    ]
}

Span = Annotated[int | float | str, BeforeValidator(parse_span), WithJsonSchema(_SPAN_SCHEMA)]
"""A length of the run: `100` steps, `0.02` or `"2%"` of it, or `"20M tokens"`."""


def span_steps(span: int | float | str, *, total_steps: int, tokens_per_step: int) -> int:
    """Steps of a parsed `Span`: to the nearest, but at least one unless the span is 0."""
    if isinstance(span, str):
        tokens = int(span.split()[0])
        return max(1, round(tokens / tokens_per_step)) if tokens else 0
    if isinstance(span, float):
        return max(1, round(span * total_steps))
    return span


class Schedule(Component):
    """A factor of the peak learning rate; it starts with a linear warm-up.

    Step t of the warm-up of W steps has the factor (t + 1) / (W + 1): never 0, and exactly 1 at t = W.
    """

    warmup: Span = field("length of the linear warm-up: steps, fraction of the run, or tokens")

    def build(self, *, total_steps: int, tokens_per_step: int) -> Factor:
        """The factor as a function of the step, traceable by jax.

        ValueError when the parts are longer than the run of `total_steps`.
        """
        raise NotImplementedError(f"{type(self).__name__}.build")

    def _spans(self, total_steps: int, tokens_per_step: int, *names: str) -> list[int]:
        """Steps of the named fields; ValueError, naming them, when together they exceed the run."""
        steps = [
            span_steps(getattr(self, name), total_steps=total_steps, tokens_per_step=tokens_per_step)
            for name in names
        ]
        if sum(steps) > total_steps:
            given = zip(names, steps, strict=True)
            parts = " and ".join(f"schedule.{name}={getattr(self, name)} ({n} steps)" for name, n in given)
            verb, them = ("is", "it") if len(names) == 1 else ("are together", "them")
            raise ValueError(
                f"{parts} {verb} longer than the run of {total_steps} steps; "
                f"shorten {them}, or give fractions of the run such as 0.1"
            )
        return steps


class Constant(Schedule):
    """The peak from the end of the warm-up on."""

    def build(self, *, total_steps: int, tokens_per_step: int) -> Factor:
        """See `Schedule.build`."""
        from lmx.optim.schedule import constant

        return constant(*self._spans(total_steps, tokens_per_step, "warmup"))


class Linear(Schedule):
    """Straight from the peak, at the end of the warm-up, to `final_factor` after the last step."""

    final_factor: Fraction = field("factor that is reached after the last step")

    def build(self, *, total_steps: int, tokens_per_step: int) -> Factor:
        """See `Schedule.build`."""
        from lmx.optim.schedule import decaying

        (warmup,) = self._spans(total_steps, tokens_per_step, "warmup")
        return decaying(warmup, total_steps - warmup, total_steps, shape="linear", final=self.final_factor)


class Cosine(Schedule):
    """Half a cosine from the peak, at the end of the warm-up, to `final_factor` (arXiv:1608.03983)."""

    final_factor: Fraction = field("factor that is reached after the last step")

    def build(self, *, total_steps: int, tokens_per_step: int) -> Factor:
        """See `Schedule.build`."""
        from lmx.optim.schedule import decaying

        (warmup,) = self._spans(total_steps, tokens_per_step, "warmup")
        return decaying(warmup, total_steps - warmup, total_steps, shape="cosine", final=self.final_factor)


class WarmupStableDecay(Schedule):
    """Warm-up, the peak, and a decay over the last steps (arXiv:2404.06395; shapes: arXiv:2405.18392)."""

    decay: Span = field("length of the decay that ends the run: steps, fraction of the run, or tokens")
    decay_shape: Shape = field(
        "with p the part of the decay gone: linear 1 - p, cosine (1 + cos(pi p)) / 2, sqrt 1 - sqrt(p), "
        "square 1 - p^2, exponential final_factor^p"
    )
    final_factor: Fraction = field("factor that is reached after the last step")

    def build(self, *, total_steps: int, tokens_per_step: int) -> Factor:
        """See `Schedule.build`."""
        from lmx.optim.schedule import decaying

        warmup, decay = self._spans(total_steps, tokens_per_step, "warmup", "decay")
        return decaying(warmup, decay, total_steps, shape=self.decay_shape, final=self.final_factor)


class InverseSqrt(Schedule):
    """sqrt((W + 1) / (t + 1)) after a warm-up of W steps (arXiv:1706.03762), then a decay if wanted."""

    decay: Span = field(
        "length of the decay that ends the run: steps, fraction of the run, or tokens; 0: none"
    )
    decay_shape: Shape = field("the decay's form, as in wsd")
    final_factor: Fraction = field("factor that the decay reaches after the last step")

    def build(self, *, total_steps: int, tokens_per_step: int) -> Factor:
        """See `Schedule.build`."""
        from lmx.optim.schedule import decaying

        warmup, decay = self._spans(total_steps, tokens_per_step, "warmup", "decay")
        return decaying(
            warmup,
            decay,
            total_steps,
            shape=self.decay_shape,
            final=self.final_factor,
            plateau="inverse_sqrt",
        )
