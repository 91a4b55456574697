"""What a run does about spikes: says and notes them, ends where there are too many, goes back where they last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from typing_extensions import override

from lmx.config.overrides import write_value
from lmx.data.windows import Window, batch_of
from lmx.io.stored import Stored
from lmx.run.hosts import of_first
from lmx.train.loop import Diverged
from lmx.train.observe import Observer
from lmx.train.spikes import no_statistics
from lmx.train.spikes_config import RewindSpikes, SkipSpikes, Spikes
from lmx.types import TrainState

ROWS = ("norms", "spike", "rewound", "corruption")
"""What makes a step's row one that is written to metrics.jsonl, whatever `trainer.log_every`."""


class GoBack(Exception):
    """Raised out of the loop when spikes last: the run is to go back from step `at`; `first` is the first spike."""

    def __init__(self, at: int, first: int) -> None:
        super().__init__(f"spikes from step {first} to {at}")
        self.at, self.first = at, first


class Data(NamedTuple):
    """The place of batches in the training data: their numbers, and those of their sequences, from 0 on."""

    first_batch: int
    last_batch: int
    first_sequence: int
    last_sequence: int

    @classmethod
    def of(cls, first: int, last: int, batch_size: int) -> Data:
        """Of the batches `first` to `last`."""
        return cls(first, last, (first - 1) * batch_size, last * batch_size - 1)

    def __str__(self) -> str:
        one = self.first_batch == self.last_batch
        batches = f"batch {self.first_batch}" if one else f"batches {self.first_batch} to {self.last_batch}"
        return f"{batches}, sequences {self.first_sequence} to {self.last_sequence}"


class SpikeGuard(Observer):
    """Looks at the spikes that the training step found; every process sees the same values, and decides alike."""

    def __init__(self, config: Spikes, run: Path, batch_size: int, say: Callable[[str], None]) -> None:
        self.config, self.run, self.batch_size, self.say = config, run, batch_size, say
        self.windows: tuple[Window, ...] = ()
        self.went_back: dict[str, Any] | None = None

    @override
    def report(self, step: int, row: dict[str, Any]) -> None:
        if self.went_back is not None:
            row["rewound"], self.went_back = self.went_back, None
        if not row["spike_run"]:
            return
        batch = batch_of(step, self.windows)
        row["spike"] = Data.of(batch, batch, self.batch_size)._asdict()
        self.say(self._words(step, row))

    def judge(self, step: int, row: Mapping[str, Any]) -> None:
        """After a step was reported: Diverged where there are too many spikes, GoBack where they last."""
        in_a_row = row["spike_run"]
        if isinstance(self.config, SkipSpikes) and in_a_row >= self.config.max_in_a_row:
            raise Diverged(
                f"step {step}: {in_a_row} updates in a row were left out as spikes (spikes.max_in_a_row="
                f"{self.config.max_in_a_row}); the parameters are those before them. Where this is the usual loss now, "
                "go on with higher spikes.loss_deviations and spikes.grad_norm_deviations, or without (lmx fork RUN "
                "~spikes); where the data are at fault, spikes=rewind leaves them out"
            )
        if isinstance(self.config, RewindSpikes) and in_a_row >= self.config.patience:
            first = step - in_a_row + 1
            if len(self.windows) and self.windows[-1].number >= self.config.max_rewinds:
                raise Diverged(
                    f"step {step}: spikes since step {first}, and the run went back {self.windows[-1].number} times "
                    f"already (spikes.max_rewinds={self.config.max_rewinds}). Other data did not help: a lower "
                    "optimizer.learning_rate, a longer schedule.warmup or a lower optimizer.clip_norm may (lmx fork)"
                )
            raise GoBack(step, first)

    def _words(self, step: int, row: Mapping[str, Any]) -> str:
        left_out = "its update is left out" if self.config.skips else f"{row['spike_run']} in a row"
        shown = f" (lmx spike {write_value(str(self.run))} step={step})" if self.config.skips else ""
        return (
            f"step {step}: spike, loss {row['loss']:.4f} ({row['loss_deviations']:+.1f} standard deviations), gradient "
            f"norm {row['grad_norm']:.3g} ({row['grad_norm_deviations']:+.1f}); {left_out}; "
            f"{Data(**row['spike'])}{shown}"
        )

    def results(self, row: Mapping[str, Any]) -> dict[str, int]:
        """For summary.json: spikes in what was trained on, and how often the run went back on others."""
        return {"spikes": row.get("spikes", 0), "rewinds": max((w.number for w in self.windows), default=0)}

    def goes_on(self, windows: Sequence[Window], after: int) -> None:
        """The windows from here on; where the run has just gone back, or did so and was ended, that is noted."""
        self.windows = tuple(windows)
        if windows and windows[-1].after == after:
            self.went_back = told(windows[-1], self.batch_size)
            self.say(words(self.went_back))


def told(window: Window, batch_size: int) -> dict[str, Any]:
    """For the ledger and a row of metrics: from which step to which, the first spike, and the data left out."""
    data = Data.of(window.first, window.last, batch_size)._asdict()
    steps = {"at": window.at, "to": window.after, "first_spike": window.since}
    return {"number": window.number, **steps, **data}


def words(went: Mapping[str, Any]) -> str:
    """What `told` found, in words."""
    data = Data(*(went[name] for name in Data._fields))
    return (
        f"spikes from step {went['first_spike']} to {went['at']}: back to the checkpoint of step {went['to']}, "
        f"without the data read since then ({data})"
    )


def checkpoint_before(checkpoints: Stored, back: GoBack) -> int:
    """The newest whole checkpoint from before the spikes, the same for all processes; Diverged where there is none."""
    first = jax.process_index() == 0  # the others do not look: it may still be removing old ones
    earlier = [step for step in checkpoints.steps() if step < back.first] if first else []
    found = int(of_first(str(max(earlier, default=-1))))
    if found < 0:
        raise Diverged(
            f"step {back.at}: spikes since step {back.first}, and {checkpoints.directory} has no checkpoint from "
            "before them to go back to; a smaller checkpoint.every or a higher checkpoint.keep_last would have left one"
        )
    return found


def abstract_for(checkpoints: Stored, abstract_state: TrainState, step: int | None = None) -> TrainState:
    """The form of the state in a checkpoint (None: the newest): with statistics of spikes, or without."""
    saved = step if step is not None else checkpoints.latest()
    if saved is None:
        return abstract_state
    has = any(name.startswith("spikes.") for name in checkpoints.manifest(saved).leaves)
    if has == (abstract_state.spikes is not None):
        return abstract_state
    where = abstract_state.step.sharding
    form = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), jax.eval_shape(no_statistics)
    )
    return abstract_state._replace(spikes=form if has else None)


def adapted(state: TrainState, abstract_state: TrainState) -> TrainState:
    """A restored state as this configuration wants it: statistics of spikes begin anew, or are left behind."""
    if (state.spikes is None) == (abstract_state.spikes is None):
        return state
    if abstract_state.spikes is None:
        return state._replace(spikes=None)
    where = jax.tree.map(lambda x: x.sharding, abstract_state.spikes)
    return state._replace(spikes=jax.jit(no_statistics, out_shardings=where)())
