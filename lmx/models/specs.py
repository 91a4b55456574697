"""Which parameters a decoder has: its layers by kind, and the tree of `Param`s.

Layers that repeat with a period (local/global windows, rotary or none) are stacked by their place in the
period, one stack of parameters a place. Layers left over when the period does not divide the depth get stacks of
their own, after the others.
"""

from __future__ import annotations

from typing import NamedTuple

from lmx.layers.attention import attention_specs
from lmx.layers.mlp import mlp_specs
from lmx.layers.norm import norm_specs
from lmx.models.config import Decoder
from lmx.params import Init, Param
from lmx.types import Tree


class Kind(NamedTuple):
    """What distinguishes a layer from others of the same stack of code: its rope's name and its window."""

    rope: str
    window: int | None


class Group(NamedTuple):
    """`repeats` times the layers `kinds`, one after another; their stacks start at index `first`."""

    kinds: tuple[Kind, ...]
    repeats: int
    first: int


def layer_groups(config: Decoder) -> list[Group]:
    """The depth as repeats of the period, then the rest."""
    ropes, windows = config.position.pattern, config.attention.windows
    kinds = [Kind(ropes[i % len(ropes)], windows[i % len(windows)]) for i in range(config.n_layers)]
    period = config.period
    repeats, rest = divmod(config.n_layers, period)
    groups = [Group(tuple(kinds[:period]), repeats, 0)] if repeats else []
    if rest:
        groups.append(Group(tuple(kinds[-rest:]), 1, period if repeats else 0))
    return groups


def decoder_specs(config: Decoder) -> Tree:
    """The tree of `Param`s: embedding, layers (a list of stacks), final_norm, and head unless tied."""
    init = config.initializer

    def matrix(inputs: int) -> Init:
        return Init(init.distribution, inputs**-0.5 if init.matrix == "fan_in" else float(init.matrix))

    def out(inputs: int) -> Init:
        if init.residual == "zeros":
            return Init("zeros")
        kind, std = matrix(inputs)
        return Init(kind, std / (2 * config.n_layers) ** 0.5 if init.residual == "depth" else std)

    n, width, vocab = config.norm, config.d_model, config.vocab_size

    def norms(stack: int | None) -> dict[str, Param]:
        return norm_specs(width, "norm", scale=n.scale, bias=n.bias, stack=stack)

    def block(stack: int) -> Tree:
        specs: Tree = {
            "attention": attention_specs(config, stack, matrix, out),
            "mlp": mlp_specs(config, stack, matrix, out),
        }
        places = {"pre": ["norm"], "post": ["post_norm"], "both": ["norm", "post_norm"]}[n.placement]
        for part in ("attention", "mlp"):
            specs |= {f"{part}_{place}": norms(stack) for place in places}
        return {name: tree for name, tree in specs.items() if tree}

    specs: Tree = {
        "embedding": {
            "tokens": Param(
                (vocab, width), ("vocab", "embed"), Init(init.distribution, init.embedding), ("vocab",)
            )
        },
        "layers": [block(group.repeats) for group in layer_groups(config) for _ in group.kinds],
        "final_norm": norms(None),
    }
    if config.position.learned:
        specs["embedding"]["positions"] = Param(
            (config.position.learned, width),
            ("position", "embed"),
            Init(init.distribution, init.embedding),
            ("position",),
        )
    if config.embedding_shift:
        shape = (config.embedding_shift, width)
        specs["embedding"]["shift"] = Param(shape, ("position", "norm"), Init("zeros"))
    if config.embedding_norm:
        specs["embedding"]["norm"] = norms(None)
    if not config.tie_embeddings:
        if init.head == "zeros":
            start = Init("zeros")
        else:
            start = Init(init.distribution, width**-0.5 if init.head == "fan_in" else float(init.head))
        specs["head"] = Param((vocab, width), ("vocab", "embed"), start, ("embed",))
    return specs
