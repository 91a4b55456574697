"""The programs of a run, each made in one place for whoever runs it, and for whoever looks at what it takes.

The training step is compiled once, in the background, while the rest of a run is being set up.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmx.config.errors import RequestError
from lmx.layers.kernels import KernelSet
from lmx.models.model import Model
from lmx.run.build import Parts, train_program
from lmx.run.config import TrainConfig
from lmx.train.evaluate import byte_table, make_eval_step
from lmx.types import Batch, TrainState, Tree


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


def options_for(config: TrainConfig, mesh: Mesh) -> dict[str, Any] | None:
    """The options of `xla` for the devices of a mesh, wherever they are."""
    return config.xla.options(mesh.devices.flat[0].platform)


def check_options(config: TrainConfig, mesh: Mesh) -> None:
    """RequestError where the compiler of this machine's devices does not know an option of `xla`.

    A program of nothing is compiled with them, before anything large is.
    """
    options = options_for(config, mesh)
    if options is None:
        return
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        unknown = re.search(r"No such compile option: '(\w+)'", str(error))
        if unknown is None:
            raise
        platform = mesh.devices.flat[0].platform
        raise RequestError(
            f"xla.{platform}.{unknown[1]}: this compiler has no such option; look for its name, or leave it out"
        ) from None


class EvalProgram:
    """(params, batch) -> sums, see `make_eval_step`: evaluation in a run, by `lmx eval`, and by `lmx compile`."""

    def __init__(
        self, model: Model, kernels: KernelSet, mesh: Mesh, *, options: dict[str, Any] | None
    ) -> None:
        """`options`: of the compiler, those of `options_for`."""
        self._step = jax.jit(make_eval_step(model, kernels), compiler_options=options)
        self._vocab, self._everywhere = model.config.vocab_size, NamedSharding(mesh, PartitionSpec())

    def of(self, token_bytes: np.ndarray | None) -> Callable[[Tree, Batch], jax.Array]:
        """The program for text of a tokenizer whose ids stand for so many bytes (None: for none)."""
        table = byte_table(token_bytes, self._vocab)
        # The same on every process, without asking the others whether it is.
        table_V = jax.make_array_from_callback(table.shape, self._everywhere, lambda i: table[i])
        return lambda params, batch: self._step(params, batch, table_V)

    def lowered(self, params: Tree, batch: Batch) -> jax.stages.Lowered:
        """For arrays, or what stands for them."""
        table_V = jax.ShapeDtypeStruct((self._vocab,), np.float32, sharding=self._everywhere)
        return self._step.lower(params, batch, table_V)


class StepPrograms:
    """(state, batch) -> (state, metrics), with per-layer norms or without; compiled for one form of batch."""

    def __init__(self, config: TrainConfig, parts: Parts, row: Batch) -> None:
        """Starts to compile the step that most steps are. `row`: one example, arrays [T]."""
        self._config, self._parts, self._row = config, parts, row
        self._pool = ThreadPoolExecutor(1, "compile-step")
        self._programs: dict[bool, Future[Any]] = {False: self._pool.submit(self._compiled, norms=False)}

    def _compiled(self, *, norms: bool) -> Any:
        lowered = lowered_step(self._config, self._parts, self._row, norms=norms)
        return lowered.compile(compiler_options=options_for(self._config, self._parts.mesh))

    def compile(self, *, norms: bool) -> None:
        """Waits until the program of this kind of step is there."""
        if norms not in self._programs:
            self._programs[norms] = self._pool.submit(self._compiled, norms=norms)
        self._programs[norms].result()

    def __call__(self, state: TrainState, batch: Batch, *, norms: bool) -> tuple[TrainState, dict[str, Any]]:
        """One step; waits for its program. The state is donated."""
        self.compile(norms=norms)
        return self._programs[norms].result()(state, batch)
