"""`Model`: what training and inference know of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lmx.layers.loss import Head
from lmx.types import KVCache, Tree


class Output(NamedTuple):
    """What a forward pass gives.

    hidden_BTD  after the last norm, in the compute dtype
    cache       the KVCache with this call's keys and values, or None
    aux         what goes along; empty for a model without experts. `loss/...` are float32 means over this call's
                tokens with their factor applied: training adds each, times the weight of the batch, to its sum.
                `count/...` are sums over this call's tokens: training adds them up, and `Model.settle` reads them.
    """

    hidden: jax.Array
    cache: KVCache | None
    aux: dict[str, jax.Array]


class Flops(NamedTuple):
    """Floating point operations of a training step a token: 6 a matrix weight, and attention.

    causal  attention counted over the keys that a query sees on average
    full    attention counted over all keys (the convention of nanoGPT and PaLM, appendix B)
    """

    causal: float
    full: float


class Model(NamedTuple):
    """A network as a tree of `Param`s and pure functions over a tree of arrays like it.

    forward(params, tokens_BT, positions_BT=None, *, segments_BT=None, cache=None, dropout_key=None) -> Output
        with a cache, positions are those after what it holds, and segments_BT is 0 for padding on the right
    head(params) -> Head, the output projection that the loss and sampling use
    init_cache(batch, length, dtype) -> KVCache
    settle(params_before, params_after, counts) -> (params, shown), or None
        ends a training step: parameters that are moved by what the forward passes counted, not by a gradient, are put
        in place, whatever the optimizer made of them; and what there is to show of the counts, by name
    flops(sequence_length) -> Flops a token
    cache_shardings(cache) -> KVCache of shardings, by the shapes of a cache; None on one device
    """

    specs: Tree
    forward: Callable[..., Output]
    head: Callable[[Tree], Head]
    init_cache: Callable[..., KVCache]
    flops: Callable[[int], Flops]
    config: Any
    settle: Callable[[Tree, Tree, dict[str, jax.Array]], tuple[Tree, dict[str, jax.Array]]] | None = None
    cache_shardings: Callable[[KVCache], KVCache | None] | None = None
