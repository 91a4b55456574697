"""The root of each command's configuration, and the checks that need more than one group."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Config, field
from lmx.config.mesh import Mesh
from lmx.config.types import Text
from lmx.data import Data, Tokenizer
from lmx.faults import Fault
from lmx.io import Checkpoint, Logging
from lmx.layers import Kernels, Precision
from lmx.models import Model
from lmx.optim import Optimizer, Schedule
from lmx.run.hosts_config import Distributed
from lmx.run.replay_config import Replay
from lmx.run.watchdog_config import Watchdog
from lmx.run.xla_config import Xla
from lmx.train import RewindSpikes, Spikes, Trainer


class TrainConfig(Config):
    """`lmx train`."""

    name: Text = field("what this run is called, in its folder's name and in tables", effect="bookkeeping")
    model: Model = field("the network")
    optimizer: Optimizer = field("the update rule")
    schedule: Schedule = field("the learning rate over the run, as a factor of optimizer.learning_rate")
    mesh: Mesh = field("devices and how arrays lie over them", effect="throughput")
    kernels: Kernels = field("which implementation computes each product", effect="throughput")
    precision: Precision = field("products in 8 bits")
    xla: Xla = field("options of the compiler, by platform", effect="throughput")
    distributed: Distributed = field("the processes of the run", effect="bookkeeping")
    data: Data = field("what is read")
    tokenizer: Tokenizer = field("text <-> token ids")
    trainer: Trainer = field("length, batch, precision, evaluation")
    checkpoint: Checkpoint = field("what is kept, and how often", effect="bookkeeping")
    logging: Logging = field("what is reported, and where", effect="bookkeeping")
    waive: dict[Text, Text] = field(
        "gates of lmx review that need not hold for this run: name -> why", effect="bookkeeping", before={}
    )
    watchdog: Watchdog = field(
        "what is taken for a hang",
        effect="bookkeeping",
        before={
            "factor": None,
            "at_least": 300.0,
            "saving": None,
            "patience": 10.0,
            "hosts_every": None,
            "straggler": 0.1,
        },
    )
    spikes: Spikes | None = field(
        "what is done about spikes of loss or gradient norm; null: nothing", before=None
    )
    replay: Replay | None = field(
        "micro-batches computed twice, on other devices, and compared; null: none",
        effect="bookkeeping",
        before=None,
    )
    fault: Fault | None = field(
        "something that goes wrong in this run, on purpose; null: nothing", effect="bookkeeping", before=None
    )
    resume: Text | None = field("run directory to go on with", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix that can be pasted)."""
        return [
            *self.model.problems(),
            *self.mesh.problems(self.model.logical_axes()),
            *self.distributed.problems(),
            *self.checkpoint.problems(),
            *_length_problems(self),
            *_batch_problems(self),
            *_size_problems(self),
            *_spike_problems(self),
        ]


def _length_problems(config: TrainConfig) -> list[tuple[str, str, str]]:
    t = config.trainer
    if t.steps is None and t.tokens is None and t.epochs is None and t.duration is None:
        message = "the run has no length: one of trainer.steps, tokens, epochs and duration must be set"
        return [("trainer.steps", message, "trainer.steps=1000")]
    return []


def _batch_problems(config: TrainConfig) -> list[tuple[str, str, str]]:
    t = config.trainer
    try:
        sequences = t.batch_sequences()
    except ValueError as error:
        tokens = int(t.global_batch_size.split()[0])
        fit = max(tokens // t.sequence_length, 1) * t.sequence_length
        return [
            (
                "trainer.global_batch_size",
                str(error).partition(": ")[2],
                f"'trainer.global_batch_size={fit} tokens'",
            )
        ]
    if sequences % t.accumulation:
        fit = max(n for n in range(1, t.accumulation + 1) if sequences % n == 0)
        message = f"a batch of {sequences} sequences cannot be split into {t.accumulation} micro-batches"
        return [("trainer.accumulation", message, f"trainer.accumulation={fit}")]
    return []


def _size_problems(config: TrainConfig) -> list[tuple[str, str, str]]:
    found = []
    t, longest = config.trainer, config.model.max_length()
    if longest is not None and t.sequence_length > longest:
        message = f"a context of {t.sequence_length} tokens is longer than the model's {longest} positions"
        found.append(("trainer.sequence_length", message, f"trainer.sequence_length={longest}"))
    if config.model.vocab_size < config.tokenizer.vocab_size:
        message = (
            f"{config.model.vocab_size} rows of embedding are fewer than the tokenizer's "
            f"{config.tokenizer.vocab_size} tokens"
        )
        found.append(("model.vocab_size", message, f"model.vocab_size={config.tokenizer.vocab_size}"))
    return found


def _spike_problems(config: TrainConfig) -> list[tuple[str, str, str]]:
    """Going back needs a checkpoint from before the spikes."""
    if not isinstance(config.spikes, RewindSpikes):
        return []
    every, keep = config.checkpoint.every, config.checkpoint.keep_last
    if every is None:
        message = "spikes=rewind goes back to a checkpoint, and none is written on the way"
        return [("checkpoint.every", message, "checkpoint.every=100")]
    needed = 1 + -(-config.spikes.patience // every)  # those in the spikes come on top of the one before
    if keep < needed:
        message = (
            f"with a checkpoint every {every} steps, none from before {config.spikes.patience} spikes is kept"
        )
        return [("checkpoint.keep_last", message, f"checkpoint.keep_last={needed}")]
    return []
