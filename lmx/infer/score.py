"""Log-probabilities of given continuations, in buckets of shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmx.infer.requests import bucket
from lmx.layers.loss import logits
from lmx.models.model import Model
from lmx.types import Tree

POSITIONS = 64
"""Positions whose logits are there at once."""


class Score(NamedTuple):
    """Sum of the log-probabilities in nats, and whether every token was the most probable one."""

    logprob: float
    greedy: bool


class Scorer:
    """Scores continuations given their contexts."""

    def __init__(self, model: Model, params: Tree, *, max_length: int, batch_size: int) -> None:
        self.params, self.max_length, self.batch_size = params, max_length, batch_size

        def run(params: Tree, tokens_BT: jax.Array, lengths_B: jax.Array) -> tuple[jax.Array, jax.Array]:
            b, t = tokens_BT.shape
            positions_BT = jnp.broadcast_to(jnp.arange(t), (b, t))
            # Padding is told apart: what a row gets must not hang on how long its neighbours are.
            real_BT = (positions_BT < lengths_B[:, None]).astype(jnp.int32)
            out = model.forward(params, tokens_BT, positions_BT, segments_BT=real_BT)
            hidden_BTD, head = out.hidden, model.head(params)
            d = hidden_BTD.shape[2]
            targets_BT = jnp.pad(tokens_BT[:, 1:], ((0, 0), (0, 1)))
            n = max(1, t // POSITIONS)
            parts = hidden_BTD.reshape(b, n, t // n, d), targets_BT.reshape(b, n, t // n)

            def some(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                y = jax.nn.log_softmax(logits(part[0], head), axis=-1)
                found = jnp.take_along_axis(y, part[1][..., None], axis=-1)[..., 0]
                return found, found >= y.max(-1)

            found, best = jax.lax.map(some, jax.tree.map(lambda x: x.swapaxes(0, 1), parts))
            return found.swapaxes(0, 1).reshape(b, t), best.swapaxes(0, 1).reshape(b, t)

        self._run = jax.jit(run)

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """One score a pair (context, continuation), neither of them empty. A long context loses its beginning.

        ValueError for a continuation that is itself longer than the model's context.
        """
        results: list[Score | None] = [None] * len(pairs)
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
        for start in range(0, len(order), self.batch_size):
            some = order[start : start + self.batch_size]
            rows = [self._row(*pairs[i]) for i in some]
            width = bucket(max(len(row) for row in rows), least=16, most=self.max_length)
            tokens_BT = np.zeros((bucket(len(rows)), width), np.int32)
            lengths_B = np.zeros(len(tokens_BT), np.int32)
            for place, row in enumerate(rows):
                tokens_BT[place, : len(row)], lengths_B[place] = row, len(row)
            found, best = jax.device_get(self._run(self.params, tokens_BT, lengths_B))
            for place, (i, row) in enumerate(zip(some, rows, strict=True)):
                at = slice(len(row) - 1 - len(pairs[i][1]), len(row) - 1)
                results[i] = Score(float(found[place, at].sum()), bool(best[place, at].all()))
        return [r for r in results if r is not None]

    def _row(self, context: Sequence[int], continuation: Sequence[int]) -> list[int]:
        if len(continuation) >= self.max_length:
            raise ValueError(
                f"a continuation of {len(continuation)} tokens does not fit the context of {self.max_length}"
            )
        return [*context, *continuation][-self.max_length :]
