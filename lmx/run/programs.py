"""The compiled training step: compiled once, in the background, while the rest of a run is being set up."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from lmx.run.build import Parts, train_program
from lmx.run.config import TrainConfig
from lmx.types import Batch, TrainState


def abstract_batch(config: TrainConfig, parts: Parts, row: Batch, sequences: int) -> Batch:
    """The form of a batch of `sequences` rows; `row`: one example, arrays [T], real ones or abstract."""
    shape = (sequences,)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(shape + x.shape, x.dtype, sharding=parts.batch_sharding), row
    )


def lowered_step(config: TrainConfig, parts: Parts, row: Batch, *, norms: bool) -> jax.stages.Lowered:
    """The training step, ready to be compiled: one function for the run and for whoever looks at its program."""
    batch = abstract_batch(config, parts, row, config.trainer.batch_sequences())
    return train_program(config, parts, norms=norms).lower(parts.abstract_state, batch)


def compiler_options(config: TrainConfig, parts: Parts) -> dict[str, Any] | None:
    """The options of `xla` for the devices of the mesh, wherever they are."""
    return config.xla.options(parts.mesh.devices.flat[0].platform)


class StepPrograms:
    """(state, batch) -> (state, metrics), with per-layer norms or without; compiled for one form of batch."""

    def __init__(self, config: TrainConfig, parts: Parts, row: Batch) -> None:
        """Starts to compile the step that most steps are. `row`: one example, arrays [T]."""
        self._config, self._parts, self._row = config, parts, row
        self._pool = ThreadPoolExecutor(1, "compile-step")
        self._programs: dict[bool, Future[Any]] = {False: self._pool.submit(self._compiled, norms=False)}

    def _compiled(self, *, norms: bool) -> Any:
        lowered = lowered_step(self._config, self._parts, self._row, norms=norms)
        return lowered.compile(compiler_options=compiler_options(self._config, self._parts))

    def compile(self, *, norms: bool) -> None:
        """Waits until the program of this kind of step is there."""
        if norms not in self._programs:
            self._programs[norms] = self._pool.submit(self._compiled, norms=norms)
        self._programs[norms].result()

    def __call__(self, state: TrainState, batch: Batch, *, norms: bool) -> tuple[TrainState, dict[str, Any]]:
        """One step; waits for its program. The state is donated."""
        self.compile(norms=norms)
        return self._programs[norms].result()(state, batch)
