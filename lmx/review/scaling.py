"""Which mesh a model wants on how many chips: the roofline of every sensible split, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lmx.chips import Chip
from lmx.review.roofline import Split, Times, Work, times

SHARE = 0.7
"""Part of the memory for state and the layers' inputs: what a layer computes again, gathered weights and the loss want
the rest (8 GB of Llama 3 8B, 10 GB of 70B, 30 GB of 405B, as compiled: docs/scaling.md)."""


class Row(NamedTuple):
    """One run: `chips` of a slice, `slices` of them, and what is best by the roofline: a split, micro-batches."""

    chips: int
    slices: int
    tokens: int
    split: Split
    micro_batches: int
    times: Times
    fits: bool

    @property
    def utilisation(self) -> float:
        """Model FLOPs utilisation if all overlapped: the rest is recomputation, and waiting for what is slower."""
        return self.times.compute / (4 / 3) / self.times.least


def splits(work: Work, chips: int, slices: int) -> Iterator[Split]:
    """FSDP over a slice, with tensor parallelism of 1 to 16 inside, experts over 1 to 64; copies over slices.

    FSDP splits the model's width, over as many chips as that divides by; what is left of them are copies.
    """
    for tensor in (1, 2, 4, 8, 16):
        if chips % tensor:
            continue
        rest = chips // tensor
        fsdp = next(n for n in range(rest, 0, -1) if rest % n == 0 and work.width % n == 0)
        experts = (1, 4, 8, 16, 32, 64) if work.experts else (1,)
        for expert in experts:
            if fsdp % expert == 0:
                yield Split(data=slices, replica=rest // fsdp, fsdp=fsdp, tensor=tensor, expert=expert)


def best(
    work: Work, chip: Chip, *, chips: int, slices: int, tokens: int, length: int, state_bytes: int = 12
) -> Row:
    """The fastest split that leaves every copy of the batch whole sequences; among equals the plainest.

    With as many micro-batches (a power of two) as it takes to fit: splits whose state and layers' inputs take more than
    SHARE of the memory only where no other is left.
    """
    found = []
    for split in splits(work, chips, slices):
        sequences = tokens / length / (split.data * split.replica * split.fsdp)
        if sequences < 1 or sequences != int(sequences):
            continue
        n = 1
        while sequences % n == 0:
            t = times(work, chip, split, tokens=tokens, micro_batches=n, state_bytes=state_bytes)
            fits = t.state_bytes + t.input_bytes <= SHARE * chip.hbm
            found.append(Row(chips, slices, tokens, split, n, t, fits))
            n *= 2
    if not found:
        raise ValueError(
            f"{tokens:,} tokens are less than one sequence of {length} for each part of {chips} chips"
        )
    plain = lambda r: (r.split.tensor > 1) + (r.split.expert > 1) + (r.split.replica > 1)
    order = lambda r: (round(r.times.least, 6), round(r.times.most, 6), plain(r), r.micro_batches)
    return min([row for row in found if row.fits] or found, key=order)


def least_tokens(chip: Chip, *, recomputed: float = 1 / 3, gradient_bytes: int = 4) -> float:
    """Tokens of a device from which on FSDP over a whole slice of many chips is bound by arithmetic, any dense model.

    Gathering and scattering take (2 + 2 + gradient_bytes) bytes a parameter over the links, arithmetic
    6 (1 + recomputed) operations a parameter and token.
    """
    links = 2 * chip.link_speed * chip.dimensions
    return (4 + gradient_bytes) / links * chip.flops / (6 * (1 + recomputed))


def markdown(rows: Sequence[Row]) -> str:
    """A table."""
    lines = [
        "| chips | slices | tokens a step | mesh | micro-batches | compute | HBM | ICI | DCN | bound by "
        "| state + inputs | MFU at most |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        t = row.times
        seconds = " | ".join(f"{x:.3g} s" if x else "0" for x in (t.compute, t.hbm, t.ici, t.dcn))
        held = f"{t.state_bytes / 1e9:.1f} + {t.input_bytes / 1e9:.1f} GB{'' if row.fits else ' (too much)'}"
        lines.append(
            f"| {row.chips} | {row.slices} | {row.tokens / 2**20:g}M | {row.split} | {row.micro_batches} "
            f"| {seconds} | {t.bound} | {held} | {row.utilisation:.0%} |"
        )
    return "\n".join(lines)
