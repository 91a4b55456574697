"""The process of `lmx verify mesh` that trains: some rows on virtual CPU devices, each recorded in a folder.

python -m lmx.run.verify_child JOB.json, where the job is a `Job`. Several processes of one job share the devices and
talk over sockets; the first of them writes.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from lmx.config.errors import LmxError
from lmx.data.loader import batches
from lmx.params import path_name
from lmx.run.build import Parts, build, build_model, make_state, to_devices, train_program, use_compile_cache
from lmx.run.config import TrainConfig
from lmx.run.verify_trace import labels, of_stages, trace_named
from lmx.sharding import make_shard
from lmx.sharding.rows import rows_of_process
from lmx.train.step import loss_sums
from lmx.types import Batch, TrainState, Tree

MOST_LINES, LONGEST = 12, 500
"""Lines of an error's message that are passed on, and characters of each."""


class Row(NamedTuple):
    """One run.

    tree      configuration, as `TrainConfig` reads it; `verify`, `meshes` left out
    folder    where it is recorded
    twin      whether each initial parameter is a rounding off
    trace     step at which activations are recorded, instead of gradients at all steps; None: not
    """

    tree: dict[str, Any]
    folder: str
    twin: bool
    trace: int | None


class Job(NamedTuple):
    """What this process is to do, and which of how many it is."""

    rows: list[Row]
    steps: int
    devices: int
    processes: int
    process: int
    coordinator: str


class Recording(NamedTuple):
    """Optimizer state that remembers what went in and what came out."""

    inner: Any
    gradients: Tree
    updates: Tree


def recording(tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """`tx`, with the last gradients and updates in its state."""

    def start(params: Tree) -> Recording:
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return Recording(tx.init(params), zeros(), zeros())

    def update(updates: Tree, state: Any, params: Any = None, **extra: Any) -> tuple[Tree, Recording]:
        new, inner = tx.update(updates, state.inner, params, **extra)
        return new, Recording(inner, updates, new)

    return optax.GradientTransformationExtraArgs(start, update)  # type: ignore[arg-type]


def _recorded(parts: Parts) -> Parts:
    """The parts with an optimizer that records."""
    shardings = parts.state_shardings
    shardings = shardings._replace(
        opt_state=Recording(shardings.opt_state, shardings.params, shardings.params)
    )
    return parts._replace(tx=recording(parts.tx), state_shardings=shardings)


def _on_host(tree: Tree, mesh: jax.sharding.Mesh) -> dict[str, np.ndarray]:
    """Path -> the whole array, on every process."""
    if jax.process_count() > 1:
        everywhere = jax.sharding.NamedSharding(mesh, jax.P())
        tree = jax.jit(lambda t: t, out_shardings=everywhere)(tree)
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def _shaken(params: Tree, shardings: Tree) -> Tree:
    """Each parameter moved to a neighbouring float, up or down by chance; zeros stay."""
    random = np.random.default_rng(0)

    def move(leaf: jax.Array) -> np.ndarray:
        old = np.asarray(leaf)
        goal = np.where(random.random(old.shape) < 0.5, np.inf, -np.inf).astype(old.dtype)
        return np.where(old == 0, old, np.nextafter(old, goal))

    return jax.device_put(jax.tree.map(move, params), shardings)


class Runner:
    """Runs rows one after another; what they have in common is read once."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._datasets: dict[str, Any] = {}

    def _batches(self, config: TrainConfig, tree: dict[str, Any], parts: Parts) -> list[Batch]:
        """This process's rows of the first global batches."""
        trainer, part = config.trainer, rows_of_process(parts.batch_sharding)
        common = [tree[k] for k in ("data", "tokenizer")]
        knobs = [tree["trainer"][k] for k in ("sequence_length", "seed", "global_batch_size")]
        key = json.dumps([common, knobs, config.model.vocab_size, list(part)])
        if key not in self._datasets:
            dataset = config.data.build(
                config.tokenizer.build(),
                sequence_length=trainer.sequence_length,
                seed=trainer.seed,
                global_batch_size=trainer.batch_sequences(),
                vocab_size=config.model.vocab_size,
            )
            stream = batches(
                dataset.train,
                global_batch_size=trainer.batch_sequences(),
                rows=part.rows(trainer.batch_sequences()),
            )
            self._datasets[key] = list(itertools.islice(stream, self.steps))
            stream.close()  # type: ignore[attr-defined]
        return self._datasets[key]

    def run(self, row: Row) -> None:
        """Trains and records."""
        config = TrainConfig.model_validate(row.tree)
        use_compile_cache(config.trainer.compile_cache)
        parts = _recorded(build(config, total_steps=self.steps))
        given = self._batches(config, row.tree, parts)
        state = make_state(config, parts)
        if row.twin:
            state = state._replace(params=_shaken(state.params, parts.state_shardings.params))
        keep = Keeper(Path(row.folder), parts.mesh)
        keep.arrays("initial", state.params)
        program = train_program(config, parts, norms=False)
        losses: list[float] = []
        for i, batch in enumerate(given):
            on_devices = to_devices(batch, parts.batch_sharding)
            if row.trace == i:
                keep.trace(config, parts, state, on_devices)
                break
            state, metrics = program(state, on_devices)
            losses.append(float(metrics["loss"]))
            if row.trace is None:
                keep.arrays(f"gradients_{i}", state.opt_state.gradients)
                keep.arrays(f"updates_{i}", state.opt_state.updates)
        sizes = dict(parts.mesh.shape)
        keep.meta(losses=losses, layers=_layer_numbers(config.model), mesh=sizes, traced=row.trace)


class Keeper:
    """Writes into one folder; only the first process does, but all take part."""

    def __init__(self, folder: Path, mesh: jax.sharding.Mesh) -> None:
        self.folder, self.mesh = folder, mesh
        self.first = jax.process_index() == 0
        folder.mkdir(parents=True, exist_ok=True)

    def arrays(self, name: str, tree: Tree) -> None:
        """A tree of arrays as `name.npz`."""
        found = _on_host(tree, self.mesh)
        if self.first:
            np.savez(self.folder / f"{name}.npz", **found)  # type: ignore[arg-type]

    def trace(self, config: TrainConfig, parts: Parts, state: TrainState, batch: Batch) -> None:
        """Activations and their gradients at `state`, of the model with its layers unrolled."""
        changes = {"layer_loop": "unroll", "remat": "none"}
        model = config.model.model_copy(update={k: v for k, v in changes.items() if hasattr(config.model, k)})
        plain = config.model_copy(update={"model": model})
        built, kernels = build_model(plain, parts.mesh, config.trainer.compute_dtype)
        z_loss = config.trainer.z_loss

        def loss(params: Tree) -> jax.Array:
            return loss_sums(built, kernels, params, batch, z_loss=z_loss)[0]

        found = trace_named(loss, state.params)
        groups = _groups(model)
        if groups:
            found = of_stages(found, groups, make_shard(parts.mesh, config.mesh.rules, config.mesh.pipeline))
        names = labels(found)
        for way, values in (("forward", [t.value for t in found]), ("backward", [t.gradient for t in found])):
            self.arrays(f"trace_{way}", dict(zip(names, values, strict=True)))

    def meta(self, **found: Any) -> None:
        """What is no array, written last: a folder with it is complete."""
        if self.first:
            (self.folder / "meta.json").write_text(json.dumps(found))


def _groups(model: Any) -> list[Any]:
    """The groups of a decoder's layers; none for another model."""
    from lmx.models import Decoder
    from lmx.models.specs import layer_groups

    return list(layer_groups(model)) if isinstance(model, Decoder) else []


def _layer_numbers(model: Any) -> dict[str, list[int]]:
    """Number of the layer at each index of each stack of `params["layers"]`; empty for a model that has none."""
    found: dict[str, list[int]] = {}
    done = 0
    for group in _groups(model):
        n = len(group.kinds)
        for place in range(n):
            found[str(group.first + place)] = [done + place + n * i for i in range(group.repeats)]
        done += n * group.repeats
    return found


def main(path: str) -> None:
    """Runs the job in the file `path`; a row that fails leaves `error.json` in its folder."""
    told = json.loads(Path(path).read_text())
    job = Job(**{**told, "rows": [Row(**row) for row in told["rows"]]})
    jax.config.update("jax_num_cpu_devices", job.devices)
    if job.processes > 1:
        jax.distributed.initialize(
            coordinator_address=job.coordinator,
            num_processes=job.processes,
            process_id=job.process,
            initialization_timeout=120,
            shutdown_timeout_seconds=30,
            cluster_detection_method="deactivate",
        )
    runner = Runner(job.steps)
    for row in job.rows:
        try:
            runner.run(row)
        except Exception as error:
            _report(row, error)
            if job.processes > 1:
                os._exit(1)  # the others wait in a collective
    if job.processes > 1:
        multihost_utils.sync_global_devices("done")


def _report(row: Row, error: Exception) -> None:
    folder = Path(row.folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line[:LONGEST] for line in str(error).strip().splitlines() if line.strip()]
    if len(lines) > MOST_LINES:  # the compiler's own can be a whole program
        lines = [*lines[:MOST_LINES], f"... ({len(lines) - MOST_LINES} more lines)"]
    kind = "" if isinstance(error, LmxError | ValueError) else f"{type(error).__name__}: "
    code = error.exit_code if isinstance(error, LmxError) else 2 if isinstance(error, ValueError) else 1
    text = "\n".join(lines) or type(error).__name__
    (folder / "error.json").write_text(json.dumps({"message": kind + text, "exit_code": code}))
    (folder / "traceback.txt").write_text(traceback.format_exc())


if __name__ == "__main__":
    main(sys.argv[1])
