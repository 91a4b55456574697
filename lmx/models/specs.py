"""Which parameters a decoder has: its layers by kind, and the tree of `Param`s.

Layers that repeat with a period (local/global windows, rotary or none, dense or mixture) are stacked by their place
in the period, one stack of parameters a place. The depth is cut into such repeats so that there are as few stacks
as possible: a model of equal layers has one, a dense start or a rest that does not fill a period gets its own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from lmx.layers.attention import attention_specs
from lmx.layers.convolution import convolution_specs
from lmx.layers.latent import latent_specs
from lmx.layers.mlp import mlp_specs
from lmx.layers.moe import moe_specs
from lmx.layers.norm import norm_specs
from lmx.models.config import Decoder
from lmx.params import Init, Param
from lmx.types import Tree


class Kind(NamedTuple):
    """What distinguishes a layer from others: its rope's name, its window and chunk, and dense or moe."""

    rope: str
    window: int | None
    chunk: int | None
    feed_forward: str

    @property
    def span(self) -> int | None:
        """How many positions a query looks back on at most, its own among them; None: all."""
        return min((n for n in (self.window, self.chunk) if n is not None), default=None)


class Group(NamedTuple):
    """`repeats` times the layers `kinds`, one after another; their stacks start at index `first`."""

    kinds: tuple[Kind, ...]
    repeats: int
    first: int


def layer_kinds(config: Decoder) -> tuple[Kind, ...]:
    """The kind of each layer, in order."""
    n = config.n_layers
    ropes, windows, chunks = config.position.pattern, config.attention.windows, config.attention.chunks
    parts = config.moe.layers(n) if config.moe else ["dense"] * n
    return tuple(
        Kind(ropes[i % len(ropes)], windows[i % len(windows)], chunks[i % len(chunks)], parts[i])
        for i in range(n)
    )


def layer_groups(config: Decoder) -> list[Group]:
    """The depth as groups of repeats, in order, with the fewest stacks (then the fewest groups)."""
    groups, first = [], 0
    for kinds, repeats in _repeats(layer_kinds(config)):
        groups.append(Group(kinds, repeats, first))
        first += len(kinds)
    return groups


@lru_cache(maxsize=256)
def _repeats(kinds: tuple[Kind, ...]) -> tuple[tuple[tuple[Kind, ...], int], ...]:
    """`kinds` as (period, repeats) one after another; the best cut of every tail, from the last layer backwards."""
    n = len(kinds)
    # For each tail: (stacks, groups, minus the first group's layers), and the group that it starts with.
    best: list[tuple[tuple[int, int, int], int, int]] = [((0, 0, 0), 0, 0)] * (n + 1)
    for start in range(n - 1, -1, -1):
        found = []
        for period in range(1, n - start + 1):
            repeats = 1
            while True:
                end = start + period * repeats
                stacks, groups, _ = best[end][0]
                found.append(((stacks + period, groups + 1, start - end), period, repeats))
                if end + period > n or kinds[end : end + period] != kinds[start : start + period]:
                    break
                repeats += 1
        best[start] = min(found)
    cut, start = [], 0
    while start < n:
        _, period, repeats = best[start]
        cut.append((kinds[start : start + period], repeats))
        start += period * repeats
    return tuple(cut)


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

    n, width, mixed = config.norm, config.d_model, config.convolution

    def norms(stack: int | None) -> dict[str, Param]:
        return norm_specs(width, "norm", scale=n.scale, bias=n.bias, stack=stack)

    attention = latent_specs if config.attention.latent else attention_specs

    def block(kind: Kind, stack: int) -> Tree:
        specs: Tree = {"attention": attention(config, stack, matrix, out)}
        if kind.feed_forward == "moe":
            specs["moe"] = moe_specs(config, stack, matrix, out)
        else:
            specs["mlp"] = mlp_specs(config, config.mlp.d_ff, (stack,), matrix, out)
        places = {"pre": ["norm"], "post": ["post_norm"], "both": ["norm", "post_norm"]}[n.placement]
        for part in ("attention", "mlp"):
            specs |= {f"{part}_{place}": norms(stack) for place in places}
            if earlier := getattr(mixed, part):
                specs[f"{part}_convolution"] = convolution_specs(earlier, width, stack=stack)
        return {name: tree for name, tree in specs.items() if tree}

    specs: Tree = {
        "embedding": embedding_specs(config),
        "layers": [block(kind, group.repeats) for group in layer_groups(config) for kind in group.kinds],
        "final_norm": norms(None),
    }
    if not config.tie_embeddings:
        specs["head"] = _head(config)
    return specs


def embedding_specs(config: Decoder) -> Tree:
    """The token table, with the position table, convolution and norm that the configuration has beside it."""
    width, n = config.d_model, config.norm
    start = Init(config.initializer.distribution, config.initializer.embedding)
    specs: Tree = {"tokens": Param((config.vocab_size, width), ("vocab", "embed"), start, ("vocab",))}
    if config.position.learned:
        specs["positions"] = Param(
            (config.position.learned, width), ("position", "embed"), start, ("position",)
        )
    if config.convolution.embedding:
        specs["convolution"] = convolution_specs(config.convolution.embedding, width)
    if config.embedding_norm:
        specs["norm"] = norm_specs(width, "norm", scale=n.scale, bias=n.bias, stack=None)
    return specs


def _head(config: Decoder) -> Param:
    init, width = config.initializer, config.d_model
    if init.head == "zeros":
        start = Init("zeros")
    else:
        start = Init(init.distribution, width**-0.5 if init.head == "fan_in" else float(init.head))
    return Param((config.vocab_size, width), ("vocab", "embed"), start, ("embed",))
