"""A small schema, to try the machinery on without the rest of the project."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Component, Config, field
from lmx.config.types import Count, Decay, Duration, Flag, Fraction, Positive, PositiveReal, Real, Text


class Model(Component):
    """A model."""


class Decoder(Model):
    """A decoder."""

    n_layers: Positive = field("blocks")
    d_model: Positive = field("width")
    n_heads: Positive = field("heads")
    head_dim: Positive = field("width of a head")
    dropout: Fraction = field("dropout rate")
    tied: Flag = field("whether the output reuses the embeddings")
    act: Literal["gelu", "silu", "relu2"] = field("nonlinearity")
    windows: list[Positive | None] = field("tokens seen, one a layer")


class Recurrent(Model):
    """A recurrent model."""

    width: Positive = field("width of the state")


class Optimizer(Component):
    """An optimizer."""

    learning_rate: PositiveReal = field("step size at its peak")


class AdamW(Optimizer):
    """AdamW."""

    betas: list[Decay] = field("decay of the moments", min_length=2, max_length=2)
    weight_decay: Real = field("decay of the weights", ge=0)


class Sgd(Optimizer):
    """SGD."""

    momentum: Decay | None = field("momentum; null: none")


class Data(Config):
    """Data."""

    path: Text = field("file or folder")
    weights: dict[str, PositiveReal] = field("weight of each part")
    workers: Count = field("worker processes", effect="throughput")
    cache: Positive | Literal["auto"] = field("examples kept", effect="throughput")


class Logging(Config):
    """Logging."""

    every: Positive = field("steps between lines", unit="steps")
    sinks: list[Text] = field("where lines go")


class Run(Config):
    """The root."""

    name: Text = field("name", effect="bookkeeping")
    steps: Positive = field("length")
    duration: Duration | None = field("longest time", unit="s")
    model: Model = field("the network")
    optimizer: Optimizer = field("the update rule")
    data: Data = field("what is read")
    logging: Logging = field("what is reported", effect="bookkeeping")
    resume: Text | None = field("run to go on with", effect="bookkeeping")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions."""
        if self.logging.every > self.steps:
            return [
                (
                    "logging.every",
                    f"is more than steps = {self.steps}, so nothing would be logged",
                    f"logging.every={self.steps}",
                )
            ]
        return []
