"""`points=`: what is swept beyond the product of overrides. A YAML in conf/points, or in a folder of your own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from lmx.config.component import Component, field
from lmx.config.overrides import write_value
from lmx.config.types import Text


class Grammar(Component):
    """What is swept beside the command line: each part is multiplied with the others, and with the overrides there."""

    every: list[Text] = field("groups of which every option is a point", effect="bookkeeping")
    zip: list[dict[Text, list[Any]]] = field(
        "keys whose lists go in step: the first values of all, the second values of all, ...",
        effect="bookkeeping",
    )
    chain: list[list[Text]] = field(
        "sweeps of their own, as words of the command line, one after the other", effect="bookkeeping"
    )

    def problems(self) -> list[tuple[str, str, str]]:
        """Lists that go in step and are not of one length: (key, message, fix)."""
        found = []
        for lists in self.zip:
            if len({len(values) for values in lists.values()}) > 1:
                words = ", ".join(f"{key} has {len(values)}" for key, values in lists.items())
                found.append(("points.zip", f"lists that go in step need one length: {words}", ""))
        return found

    def blocks(self, options: Callable[[str], Sequence[str]]) -> list[list[str]]:
        """Lists of overrides, each to be multiplied with those of the command line.

        `options`: group -> names of its options; there is every group of `every`.
        """
        parts: list[list[list[str]]] = [[list(words) for words in self.chain] or [[]]]
        for lists in self.zip:
            rows = zip(*lists.values(), strict=True)
            parts.append([[f"{k}={write_value(v)}" for k, v in zip(lists, row, strict=True)] for row in rows])
        for group in self.every:
            names = [name for name in options(group) if not name.startswith("_")]
            parts.append([[f"{group}={name}"] for name in names])
        return [[word for words in choice for word in words] for choice in itertools.product(*parts)]
