"""The root of `lmx verify width`."""

from __future__ import annotations

from lmx.config.component import Config, field
from lmx.config.types import Positive, PositiveReal, Text
from lmx.run.config import TrainConfig


class Width(Config):
    """What is compared, and how closely."""

    key: Text = field("the key that the widths are values of", effect="bookkeeping")
    steps: Positive = field(
        "training steps before activations are looked at", unit="steps", effect="bookkeeping"
    )
    tolerance: PositiveReal = field(
        "largest exponent of the width that the change of an activation may grow with", effect="bookkeeping"
    )
    to: Text | None = field("a picture of the changes; null: none", effect="bookkeeping", example="width.png")


class VerifyWidth(TrainConfig):
    """`lmx verify width`: all that `lmx train` has, and the widths that are compared."""

    widths: list[Positive] = field("widths that are compared", effect="bookkeeping")
    width: Width = field("what is compared, and how closely", effect="bookkeeping")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        found = super().problems()
        if len(set(self.widths)) < 2:
            more = [*self.widths, 2 * self.widths[0]] if self.widths else [64, 128]
            words = ",".join(map(str, sorted(set(more))))
            found.append(("widths", "an exponent needs two widths or more", f"'widths=[{words}]'"))
        return found
