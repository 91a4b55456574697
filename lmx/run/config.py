"""The root of each command's configuration, and the checks that need more than one group."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Config, field
from lmx.config.mesh import Mesh
from lmx.config.types import Text
from lmx.data import Data, Tokenizer
from lmx.io import Checkpoint, Logging
from lmx.layers import Kernels
from lmx.models import Model
from lmx.optim import Optimizer, Schedule
from lmx.train import Trainer


class TrainConfig(Config):
    """`lmx train`."""

    name: Text = field("what this run is called, in its folder's name and in tables", effect="bookkeeping")
    model: Model = field("the network")
    optimizer: Optimizer = field("the update rule")
    schedule: Schedule = field("the learning rate over the run, as a factor of optimizer.learning_rate")
    mesh: Mesh = field("devices and how arrays lie over them", effect="throughput")
    kernels: Kernels = field("which implementation computes each product", effect="throughput")
    data: Data = field("what is read")
    tokenizer: Tokenizer = field("text <-> token ids")
    trainer: Trainer = field("length, batch, precision, evaluation")
    checkpoint: Checkpoint = field("what is kept, and how often", effect="bookkeeping")
    logging: Logging = field("what is reported, and where", effect="bookkeeping")
    resume: Text | None = field("run directory to go on with", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")
