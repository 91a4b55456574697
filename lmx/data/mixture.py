"""Several datasets interleaved by weight, exact over every block, and random access all the way."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grain
import numpy as np

from lmx.data.dataset import Dataset, row
from lmx.data.packing import mix64
from lmx.types import Batch

if TYPE_CHECKING:
    from lmx.data.config import Data, RowSpec
    from lmx.data.tokenizers import TokenizerImpl


def block_counts(weights: np.ndarray, block: int) -> np.ndarray:
    """Examples of each source in a block: weights to whole numbers by largest remainder, ties to the first.

    ValueError when a source with a weight would get none.
    """
    exact = weights / weights.sum() * block
    counts = np.floor(exact + 1e-9).astype(np.int64)
    remainders = exact - counts
    order = np.argsort(-remainders, kind="stable")
    counts[order[: block - int(counts.sum())]] += 1
    starved = np.flatnonzero((weights > 0) & (counts == 0))
    if len(starved):
        needed = int(np.ceil(weights.sum() / weights[starved].min()))
        raise ValueError(
            f"data.block={block} is too small: a source of weight {weights[starved[0]]:g} gets no "
            "example in a block; "
            f"set data.block={needed} or more"
        )
    return counts


def interleave(counts: np.ndarray) -> np.ndarray:
    """An order of a block, close to the shares in every stretch: example k of n stands at (k + 1/2) / n."""
    places = np.concatenate([(np.arange(n) + 0.5) / max(n, 1) for n in counts])
    sources = np.repeat(np.arange(len(counts)), counts)
    return sources[np.lexsort((sources, places))]


class Plan:
    """Example -> (source, which of its examples), for weights that may change at given examples."""

    def __init__(self, weights: Sequence[np.ndarray], begins: Sequence[int], block: int):
        self.block = block
        self.begins = np.asarray(begins, np.int64)
        self.counts = np.stack([block_counts(w, block) for w in weights])
        self.orders = np.stack([interleave(c) for c in self.counts])
        n_sources = self.counts.shape[1]
        one_hot = self.orders[:, :, None] == np.arange(n_sources)
        self.before = np.concatenate(
            [np.zeros((len(weights), 1, n_sources), np.int64), np.cumsum(one_hot, axis=1)], axis=1
        )
        self.read = np.zeros((len(weights), n_sources), np.int64)
        for stage in range(1, len(weights)):
            whole, rest = divmod(int(self.begins[stage] - self.begins[stage - 1]), block)
            self.read[stage] = (
                self.read[stage - 1] + whole * self.counts[stage - 1] + self.before[stage - 1, rest]
            )

    def locate(self, example: int) -> tuple[int, int]:
        """The source of an example of the mixture, and its number within that source."""
        stage = int(np.searchsorted(self.begins, example, "right")) - 1
        whole, place = divmod(example - int(self.begins[stage]), self.block)
        source = int(self.orders[stage, place])
        number = (
            self.read[stage, source] + whole * self.counts[stage, source] + self.before[stage, place, source]
        )
        return source, int(number)


class MixedRows:
    """The training sides of several datasets, as a plan says."""

    def __init__(self, sides: Sequence[grain.MapDataset], plan: Plan, *, segments: bool):
        self.sides, self.plan, self.segments = list(sides), plan, segments

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> Batch:
        source, number = self.plan.locate(index)
        found = row(self.sides[source], number)
        return with_segments(found) if self.segments else found


class JoinedRows:
    """The evaluation sides one after another."""

    def __init__(self, sides: Sequence[grain.MapDataset], *, segments: bool):
        self.sides, self.segments = list(sides), segments
        self.ends = np.cumsum([len(side) for side in sides])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Batch:
        source = int(np.searchsorted(self.ends, index, "right"))
        found = row(self.sides[source], index - int(self.ends[source]) + len(self.sides[source]))
        return with_segments(found) if self.segments else found


def with_segments(one: Batch) -> Batch:
    """A row of one stretch, said in segments, so that it can stand beside packed rows."""
    if one.segments is not None:
        return one
    length = len(one.tokens)
    return one._replace(positions=np.arange(length, dtype=np.int32), segments=np.ones(length, np.int32))


def _joined(names: Sequence[str], parts: Sequence[Dataset]) -> Dataset:
    """The evaluation sides alone, one after another."""
    segments = any(row(part.eval, 0).segments is not None for part in parts)
    description: dict[str, Any] = {
        "sources": {name: part.description for name, part in zip(names, parts, strict=True)},
        "eval": {"examples": sum(len(part.eval) for part in parts)},
    }
    joined = JoinedRows([part.eval for part in parts], segments=segments)
    return Dataset(grain.MapDataset.source([]), grain.MapDataset.source(joined), 0, 0, description)


def build_mixture(
    sources: Mapping[str, Data],
    stages: Mapping[int, Mapping[str, float]],
    tokenizer: TokenizerImpl,
    wanted: RowSpec,
    *,
    block: int,
) -> Dataset:
    """Builds every source and interleaves them. An epoch ends when the first source has been read once.

    `stages`: the step at which weights of sources begin -> these weights; the first begin at step 0.
    """
    global_batch_size = wanted.global_batch_size
    if len(stages) > 1 and global_batch_size is None:
        raise ValueError(
            "data.stages counts in steps, which needs trainer.global_batch_size; give it, or set stages=[]"
        )
    names = list(sources)
    parts = [
        sources[name].open(
            tokenizer, wanted._replace(seed=mix64(wanted.seed, zlib.crc32(name.encode())) % 2**32)
        )
        for name in names
    ]
    if wanted.whole:
        return _joined(names, parts)
    begins = [step * (global_batch_size or 0) for step in stages]
    weights = [np.array([stage.get(name, 0.0) for name in names]) for stage in stages.values()]
    plan = Plan(weights, begins, block)
    segments = any(row(part.train, 0).segments is not None for part in parts)
    first, used = plan.counts[0], plan.counts[0] > 0
    blocks = [part.examples_per_epoch / n for part, n in zip(parts, first, strict=True) if n]
    examples = max(1, int(min(blocks) * block))
    per_example = [part.tokens_per_epoch / part.examples_per_epoch for part in parts]
    tokens = int(examples * float((first[used] / block) @ np.array(per_example)[used]))
    description: dict[str, Any] = {
        "shares": {name: int(n) / block for name, n in zip(names, first, strict=True)},
        "block": block,
        "sources": {name: part.description for name, part in zip(names, parts, strict=True)},
        "train": {
            "examples": examples,
            "tokens": tokens,
            "fill": round(tokens / (examples * wanted.sequence_length), 4),
        },
        "eval": {"examples": sum(len(part.eval) for part in parts)},
    }
    return Dataset(
        grain.MapDataset.source(MixedRows([part.train for part in parts], plan, segments=segments)),
        grain.MapDataset.source(JoinedRows([part.eval for part in parts], segments=segments)),
        examples,
        tokens,
        description,
    )
