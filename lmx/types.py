"""Shapes and the few types that every room shares.

Array names end in the letters of their axes, and einsum strings use the same letters in lower case:

    B batch        T query length   S key length    D model width   F ffn width
    H head width   N query heads    K key/value heads               G = N // K
    V vocabulary   L layers         E experts       C chunk
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
    skipped     int32 [], updates left out because the loss or a gradient was not finite
    skipped_run int32 [], how many of those came directly one after another, up to now
    """

    step: Any
    params: Tree
    opt_state: Tree
    ema: Tree
    skipped: Any
    skipped_run: Any


class KVCache(NamedTuple):
    """Keys and values of the positions seen so far, a pair of stacks for each layer of the scanned period.

    keys, values    tuple (one a group of layers) of [L, B, S, K, H]
    tokens_BS       int32, the ids at those positions
    lengths_B       int32, positions filled in each row
    """

    keys: Any
    values: Any
    tokens: Any
    lengths: Any
