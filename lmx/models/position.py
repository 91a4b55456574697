"""`model.position`: learned tables, rotary embeddings, and the ways to stretch those for long contexts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from lmx.config.component import Component, Config, field
from lmx.config.types import Flag, Fraction, Positive, PositiveReal, Text

if TYPE_CHECKING:
    import numpy as np

    from lmx.layers.rope import Frequencies, Length


class RopeScaling(Component):
    """How rotary frequencies are changed for contexts longer than those of pre-training."""

    by_length: ClassVar[bool] = False
    """Whether the frequencies depend on how long the sequence is."""

    def scale(self, inv: np.ndarray, theta: float, length: Length) -> tuple[Frequencies, float]:
        """Radians a position of each pair, changed, and the factor of cos and sin.

        `length` is that of the whole sequence: a number, or int32 [B, T], that of each token's own one; the
        frequencies [pairs] are then [B, T, pairs] where they depend on it.
        """
        raise NotImplementedError(f"{type(self).__name__}.scale")

    @property
    def switches_after(self) -> int | None:
        """Length past which frequencies are others at once, so that a cache has to be made anew there; None: none."""
        return None


class LinearScaling(RopeScaling):
    """Positions divided by `factor` (arXiv:2306.15595)."""

    factor: PositiveReal = field("how many times longer the context becomes")

    def scale(self, inv: np.ndarray, theta: float, length: Length) -> tuple[Frequencies, float]:
        """See `RopeScaling.scale`."""
        return inv / self.factor, 1.0


class DynamicScaling(RopeScaling):
    """NTK-aware: theta grows with what a sequence is longer than the original context."""

    by_length: ClassVar[bool] = True
    factor: PositiveReal = field("how fast theta grows")
    original_length: Positive = field("context of pre-training", unit="tokens")

    def scale(self, inv: np.ndarray, theta: float, length: Length) -> tuple[Frequencies, float]:
        """See `RopeScaling.scale`."""
        from lmx.layers.rope import dynamic

        knobs = {"factor": self.factor, "original_length": self.original_length}
        return dynamic(inv, theta=theta, length=length, **knobs), 1.0


class Llama3Scaling(RopeScaling):
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, those between interpolated."""

    factor: PositiveReal = field("divisor of the low frequencies")
    low_frequency_factor: PositiveReal = field("wavelengths over original_length / this are scaled")
    high_frequency_factor: PositiveReal = field("wavelengths under original_length / this are kept")
    original_length: Positive = field("context of pre-training", unit="tokens")

    def scale(self, inv: np.ndarray, theta: float, length: Length) -> tuple[Frequencies, float]:
        """See `RopeScaling.scale`."""
        from lmx.layers.rope import llama3

        low, high = self.low_frequency_factor, self.high_frequency_factor
        length = self.original_length
        return llama3(inv, factor=self.factor, low=low, high=high, original_length=length), 1.0


class YarnScaling(RopeScaling):
    """YaRN (arXiv:2309.00071): a ramp between kept and divided frequencies, and hotter attention."""

    factor: PositiveReal = field("divisor of the low frequencies")
    beta_fast: PositiveReal = field("rotations over the original context above which a frequency is kept")
    beta_slow: PositiveReal = field("rotations below which it is divided by factor")
    original_length: Positive = field("context of pre-training", unit="tokens")
    attention_factor: PositiveReal | None = field("factor of cos and sin; null: 0.1 ln(factor) + 1")
    truncate: Flag = field("whether the ends of the ramp are rounded outwards to whole dimensions")

    def scale(self, inv: np.ndarray, theta: float, length: Length) -> tuple[Frequencies, float]:
        """See `RopeScaling.scale`."""
        from lmx.layers.rope import yarn

        knobs = self.model_dump(exclude={"attention_factor"})
        return yarn(inv, theta=theta, **knobs), self.attention_factor or 0.1 * math.log(self.factor) + 1.0


class LongRopeScaling(RopeScaling):
    """LongRoPE (arXiv:2402.13753): a divisor for each pair, one list for short sequences, one for long ones."""

    by_length: ClassVar[bool] = True
    short_factors: list[PositiveReal] = field("divisors for sequences of up to original_length")
    long_factors: list[PositiveReal] = field("divisors for longer sequences")
    original_length: Positive = field("context of pre-training", unit="tokens")
    attention_factor: PositiveReal = field("factor of cos and sin, for short sequences too")

    @property
    def switches_after(self) -> int | None:
        """See `RopeScaling.switches_after`."""
        return self.original_length

    def scale(self, inv: np.ndarray, theta: float, length: Length) -> tuple[Frequencies, float]:
        """See `RopeScaling.scale`."""
        from lmx.layers.rope import longrope

        knobs = {"short": self.short_factors, "long": self.long_factors}
        divided = longrope(inv, length=length, original_length=self.original_length, **knobs)
        return divided, self.attention_factor


class Rope(Config):
    """Rotary position embedding (arXiv:2104.09864)."""

    theta: PositiveReal = field("base of the wavelengths")
    fraction: Fraction = field("part of each head's dimensions that is rotated")
    layout: Literal["half", "interleaved"] = field("pairs are (i, i + half) or (2i, 2i + 1)")
    scaling: RopeScaling | None = field("change of the frequencies for long contexts")


class Position(Config):
    """How the model knows the order of tokens."""

    learned: Positive | None = field("length of a learned table added to the embeddings; null: no table")
    ropes: dict[str, Rope] = field("rotary embeddings by name")
    pattern: list[Text] = field("one a layer, repeated over the layers: a name in ropes, or none")
