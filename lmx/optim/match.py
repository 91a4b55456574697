"""Configuration of which parameters a setting is for: by path, by logical axes or by kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from lmx.config.component import Config, field
from lmx.config.types import NonNegative, Text


class ByPath(Config):
    """Parameters whose path fits a pattern, as in a shell: `layers.*.attention.*` (a star crosses dots)."""

    path: Text | list[Text] = field("pattern of the path, or several of them")


class ByAxes(Config):
    """Parameters that have all of these logical axes."""

    axes: list[Text] = field("logical axes, such as [vocab] or [experts, expert_ffn]")


class ByKind(Config):
    """Parameters of a kind, told by their logical axes."""

    kind: Literal["matrix", "embedding", "head", "vector"] = field(
        "matrix: of a product inside the network; embedding: looked up by token or position; "
        "head: the output projection to the vocabulary; vector: scales and biases"
    )


def _which_match(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", ())
    found = set(keys) & {"path", "axes", "kind"}
    return found.pop() if len(found) == 1 else None


Match = Annotated[
    Annotated[ByPath, Tag("path")] | Annotated[ByAxes, Tag("axes")] | Annotated[ByKind, Tag("kind")],
    Discriminator(
        _which_match,
        custom_error_type="match_unknown",
        custom_error_message="needs exactly one of path, axes, kind: "
        "{path: layers.*.attention.*}, {axes: [vocab]} or {kind: vector}",
    ),
]


class Group(Config):
    """Parameters with a learning rate or a weight decay of their own."""

    match: Match = field("which parameters: {path: ...}, {axes: [...]} or {kind: ...}")
    learning_rate_multiplier: NonNegative = field("factor of the learning rate; 0: no updates")
    weight_decay: NonNegative | None = field("in place of the optimizer's weight decay; null: that one")
