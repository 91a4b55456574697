"""`spikes`: what counts as a spike of loss or gradient norm, and what is done about it."""

from __future__ import annotations

from lmx.config.component import Component, field
from lmx.config.types import Decay, Positive, PositiveReal


class Spikes(Component):
    """A step is a spike where its loss or gradient norm is far above its running mean, or no number.

    Spikes do not enter mean and variance.
    """

    loss_deviations: PositiveReal | None = field(
        "standard deviations above the mean loss that are a spike; null: the loss is not looked at"
    )
    grad_norm_deviations: PositiveReal | None = field(
        "the same of the logarithm of the gradient norm before clipping; null: it is not looked at"
    )
    smallest_deviation: PositiveReal = field(
        "what a standard deviation is at least, of the loss and of the logarithm of the norm", unit="nats"
    )
    decay: Decay = field("of the running means and variances")
    warmup_steps: Positive = field("steps that enter mean and variance before any counts as a spike")

    @property
    def skips(self) -> bool:
        """Whether the update of a spike is left out."""
        raise NotImplementedError(f"{type(self).__name__}.skips")


class SkipSpikes(Spikes):
    """The update of a spike is left out, as is one that is not finite: parameters and moments stay as they were."""

    max_in_a_row: Positive = field("updates left out one after another that end the run")

    @property
    def skips(self) -> bool:
        """True."""
        return True


class RewindSpikes(Spikes):
    """Where spikes last, the run goes back to the last checkpoint before them and leaves out the data since then."""

    patience: Positive = field("spikes in a row that the run goes back for")
    max_rewinds: Positive = field("how often a run goes back; the next time it ends")

    @property
    def skips(self) -> bool:
        """False."""
        return False
