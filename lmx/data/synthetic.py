"""Synthetic tokens by a rule of known entropy: row `i` is a function of (seed, i)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grain
import numpy as np

from lmx.data.dataset import Dataset, endless
from lmx.data.packing import mix64
from lmx.types import Batch

if TYPE_CHECKING:
    from lmx.data import config


class SyntheticRows:
    """Rows drawn by `rule`; see `config.Synthetic`."""

    def __init__(
        self,
        rule: str,
        *,
        exponent: float,
        branching: int,
        vocab_size: int,
        length: int,
        seed: int,
        count: int,
    ):
        self.rule, self.vocab_size, self.length, self.seed, self.count = rule, vocab_size, length, seed, count
        outcomes = min(branching, vocab_size) if rule == "walk" else vocab_size
        self.tokens = count * length
        weights = np.arange(1, outcomes + 1, dtype=np.float64) ** -exponent
        self.probabilities = weights / weights.sum()
        self.cumulative = np.cumsum(self.probabilities)
        # The hidden order is one for both sides, and the same for every seed: it is what there is to learn.
        self.order = np.random.default_rng(0).permutation(vocab_size).astype(np.int32)

    @property
    def entropy(self) -> float:
        """Of a draw, in nats."""
        return float(-(self.probabilities * np.log(self.probabilities)).sum())

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng(mix64(self.seed, index))
        draws = np.minimum(
            np.searchsorted(self.cumulative, rng.random(self.length + 1)), len(self.cumulative) - 1
        )
        if self.rule == "walk":
            draws[0] = rng.integers(self.vocab_size)
            draws[1:] += 1
            draws = np.cumsum(draws) % self.vocab_size
        elif self.rule == "copy":
            half = (self.length + 2) // 2
            draws = np.concatenate([draws[:half], draws[:half]])[: self.length + 1]
        row = self.order[draws]
        return Batch(row[:-1], row[1:], np.ones(self.length, np.float32))


def build_synthetic(options: config.Synthetic, vocab_size: int, wanted: config.RowSpec) -> Dataset:
    """Two sides of rows from different draws of one rule."""

    def rows(count: int, side: int) -> SyntheticRows:
        return SyntheticRows(
            options.rule,
            exponent=options.exponent,
            branching=options.branching,
            vocab_size=vocab_size,
            length=wanted.sequence_length,
            seed=mix64(wanted.seed if side == 0 else 0, 4 + side),
            count=count,
        )

    train, evaluation = rows(options.examples, 0), rows(options.eval_examples, 1)
    entropy = train.entropy / 2 if options.rule == "copy" else train.entropy
    description: dict[str, Any] = {
        "rule": options.rule,
        "entropy": round(entropy, 4),
        "train": {"examples": len(train), "tokens": train.tokens, "fill": 1.0},
        "eval": {"examples": len(evaluation), "tokens": evaluation.tokens, "fill": 1.0},
    }
    return Dataset(
        endless(train, wanted.seed),
        grain.MapDataset.source(evaluation),
        len(train),
        train.tokens,
        description,
    )
