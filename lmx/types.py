"""Shapes and the few types that every room shares.

Array names end in the letters of their axes, and einsum strings use the same letters in lower case:

    B batch        T query length   S key length    D model width   F ffn width
    H head width   N query heads    K key/value heads               G = N // K
    V vocabulary   L layers         E experts       C chunk
    M tokens of a batch, in one row                 J choices of a token
    R width of a compressed vector (rank), or rows ordered by expert
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
Tree = Any
"""A pytree: of arrays, of `Param`s, of shardings."""


class Batch(NamedTuple):
    """One global batch (or this host's rows of it).

    tokens_BT       int32, inputs
    targets_BT      int32, the token that follows each input
    weights_BT      float32, how much each target counts in the loss; 0 for padding and masked text
    positions_BT    int32, position within its document; None: 0..T-1 in every row
    segments_BT     int32, document of the row, from 1 on; 0 is padding; None: each row is one document
    """

    tokens: Any
    targets: Any
    weights: Any
    positions: Any = None
    segments: Any = None


class TrainState(NamedTuple):
    """All that a training step changes.

    step        int32 [], updates tried so far (skipped ones too)
    params      tree of arrays
    opt_state   the optimizer's state
    ema         exponential moving average of params, or None
    skipped     int32 [], updates left out because the loss or a gradient was not finite, or a spike
    skipped_run int32 [], how many that were not finite came directly one after another, up to now
    spikes      `lmx.train.spikes.Statistics`, or None where nobody looks for spikes
    """

    step: Any
    params: Tree
    opt_state: Tree
    ema: Tree
    skipped: Any
    skipped_run: Any
    spikes: Tree = None


class KVCache(NamedTuple):
    """Keys and values of the positions seen so far, those of all layers of one place in the repeating period together.

    keys, values    tuple, one a place (in the order of `params["layers"]`): a stack [L, B, K, S, H], or where layers
                    are unrolled a tuple of L arrays [B, K, S, H]. S is as many positions as the cache has room for,
                    or where a layer's window or chunk is shorter, its length: position p then lies in slot p % S
    inputs          tuple, one a place: what each convolution of the layer was given, by name, [.., B, 1, S, D]
    tokens_BS       int32, the ids at those positions
    lengths_B       int32, positions filled in each row, and rows may differ; other slots may hold anything
    limits_B        int32, how long each row's sequence will become (as many positions as there are, unless the caller
                    says otherwise): rotary frequencies that go by the length of the whole sequence go by this, or by
                    what a row has so far where that is more

    `forward` writes at `lengths` and adds its T to every length. A caller with ragged rows pads them on the right and
    gives `segments_BT`, 0 for padding: that is not kept, and lengths grow by the rest. A cache of exactly T positions
    is taken to be empty.
    """

    keys: Any
    values: Any
    inputs: Any
    tokens: Any
    lengths: Any
    limits: Any
