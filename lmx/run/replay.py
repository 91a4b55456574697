"""Silent corruption: a micro-batch computed twice, the second time on other devices, and compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from typing_extensions import override

from lmx.params import path_name
from lmx.run.build import Parts, build_model
from lmx.run.compare_devices import checksums, differences, suspects
from lmx.run.config import TrainConfig
from lmx.run.ledger import Ledger
from lmx.run.roll_call import RollCall
from lmx.run.swap import Touch, moved, swapped
from lmx.train.observe import Observer, Observers
from lmx.types import Batch, Tree


class Corrupt(RuntimeError):
    """Two computations of the same micro-batch differ."""


class Difference(NamedTuple):
    """What differs first, in the order of computation.

    what     parameters, losses or gradients
    error    relative; of parameters, which are compared bit for bit, infinite
    where    in words: which rows, or which array
    devices  those that can be to blame; empty where a sum over all of them hides which
    """

    what: str
    error: float
    where: str
    devices: tuple[Any, ...]


class Replay(Observer):
    """Replays the first micro-batch of every `replay.every`-th step, before the step is taken."""

    def __init__(
        self, config: TrainConfig, parts: Parts, calls: RollCall, ledger: Ledger, say: Callable[[str], None]
    ) -> None:
        assert config.replay is not None
        self.config, self.settings, self.parts, self.calls = config, config.replay, parts, calls
        self.ledger, self.say = ledger, say
        self.mesh = parts.mesh
        self.other, self.to = swapped(parts.mesh)
        self.back = {new: old for old, new in self.to.items()}
        self.programs: tuple[Any, Any] | None = None
        self.noted: dict[str, Any] | None = None

    def due(self, step: int) -> bool:
        """Whether this step's micro-batch is replayed."""
        return step % self.settings.every == 0

    def before(self, step: int, params: Tree, batch: Batch, observers: Observers) -> None:
        """Replays what the step is about to be taken on, where it is due; a staged fault is an observer."""
        if self.due(step):
            with observers.during("replay", step):
                self.look(step, params, batch, lambda where: partial(observers.copied, step, where))

    def look(self, step: int, params: Tree, batch: Batch, touch: Callable[[str], Touch]) -> Difference | None:
        """Computes twice and compares; every process calls this, and all find the same. Corrupt with `action: stop`.

        `touch`: a stage (parameters, computing, gradients) -> what may change the parts that are copied there.
        """
        began = time.perf_counter()
        if self.programs is None:
            self.programs = (self._program(self.mesh), self._program(self.other))
        found = self._compare(params, batch, touch)
        took = time.perf_counter() - began
        if found is None:
            exact = " bit for bit" if self.settings.tolerance == 0 else f" up to {self.settings.tolerance:g}"
            self.say(f"step {step}: replayed on {self._where()} in {took:.2f} s, the same{exact}")
            return None
        devices = [f"{device} of {self.calls.name(device.process_index)}" for device in found.devices]
        who = "to blame: " + " or ".join(devices) if devices else "all devices have what one of them spoilt"
        self.noted = {"what": found.what, "where": found.where, "error": found.error, "devices": devices}
        self.ledger.note("corruption", step, self.noted)
        text = (
            f"step {step}: a micro-batch computed twice differs in its {found.what} ({found.where}; relative "
            f"difference {found.error:.1e}, replay.tolerance={self.settings.tolerance:g}); {who}"
        )
        if self.settings.action == "stop":
            raise Corrupt(
                f"{text}. Checkpoints may hold what it did before; go on without that device or host"
            )
        self.say(f"WARNING: {text}")
        return found

    @override
    def report(self, step: int, row: dict[str, Any]) -> None:
        if self.noted is not None:
            row["corruption"], self.noted = self.noted, None

    def _where(self) -> str:
        alone = all(old == new for old, new in self.to.items())
        return "the same devices: each process has one" if alone else "other devices"

    def _program(self, mesh: jax.sharding.Mesh) -> Any:
        """(params, batch) -> (loss of each row of the first micro-batch [B / accumulation], gradients), on a mesh."""
        model, kernels = build_model(self.config, mesh, self.config.trainer.compute_dtype)
        n, z_loss = self.config.trainer.accumulation, self.config.trainer.z_loss

        def compute(params: Tree, batch: Batch) -> tuple[jax.Array, Tree]:
            part = jax.tree.map(lambda x: x.reshape(x.shape[0] // n, n, *x.shape[1:])[:, 0], batch)
            weight = jnp.maximum(part.weights.sum(dtype=jnp.float32), 1e-6)

            def objective(params: Tree) -> tuple[jax.Array, jax.Array]:
                out = model.forward(params, part.tokens, part.positions, segments_BT=part.segments)
                head = model.head(params)
                losses = kernels.cross_entropy(out.hidden, head, part.targets, part.weights, z_loss=z_loss)
                fixed = jax.lax.stop_gradient((out.hidden, head))
                rows = kernels.token_losses(*fixed, part.targets) * part.weights
                own = sum(value for name, value in out.aux.items() if name.startswith("loss/"))
                return losses.total / weight + own, rows.sum(1)

            grads, rows = jax.grad(objective, has_aux=True)(params)
            return rows, grads

        like = jax.tree.map(lambda s: NamedSharding(mesh, s.spec), self.parts.state_shardings.params)
        return jax.jit(compute, out_shardings=(NamedSharding(mesh, jax.P()), like))

    def _compare(self, params: Tree, batch: Batch, touch: Callable[[str], Touch]) -> Difference | None:
        assert self.programs is not None
        first, second = self.programs
        here, there = list(self.mesh.devices.flat), list(self.other.devices.flat)
        copies = moved(params, self.other, self.to, touch("parameters"))
        sums = [
            np.asarray(checksums(tree, mesh)) for tree, mesh in ((params, self.mesh), (copies, self.other))
        ]
        places = np.flatnonzero(sums[0] != sums[1]).tolist()
        if places:
            where = f"those of {len(places)} of {len(here)} devices, or their copies"
            return Difference("parameters", float("inf"), where, tuple(suspects(places, here, there)))
        copies = moved(copies, self.other, {device: device for device in there}, touch("computing"))
        rows, grads = first(params, batch)
        rows_again, grads_again = second(copies, moved(batch, self.other, self.to))
        del copies
        found = self._of_rows(*(np.asarray(r.addressable_data(0)) for r in (rows, rows_again)))
        if found is not None:
            return found
        grads_again = moved(grads_again, self.mesh, self.back, touch("gradients"))
        errors = np.asarray(differences(grads, grads_again, self.mesh))
        return self._of_gradients(
            errors, [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(grads)]
        )

    def _of_rows(self, rows: np.ndarray, again: np.ndarray) -> Difference | None:
        with np.errstate(all="ignore"):
            errors = np.abs(rows - again) / np.maximum(np.abs(rows), np.finfo(np.float32).tiny)
        errors = np.where(rows.view(np.uint32) == again.view(np.uint32), 0.0, errors)
        errors = np.where(np.isfinite(errors), errors, np.inf)
        bad = np.flatnonzero(errors > self.settings.tolerance).tolist()
        if not bad:
            return None
        n = self.config.trainer.accumulation
        size = len(rows) * n
        holds = self.parts.batch_sharding.devices_indices_map((size, self.config.trainer.sequence_length))
        places = [
            i
            for i, device in enumerate(self.mesh.devices.flat)
            if any(row * n in range(*holds[device][0].indices(size)) for row in bad)
        ]
        where = f"{len(bad)} of {len(rows)} rows"
        return Difference("losses", float(errors.max()), where, self._to_blame(places))

    def _of_gradients(self, errors: np.ndarray, names: Sequence[str]) -> Difference | None:
        bad = errors > self.settings.tolerance
        if not bad.any():
            return None
        array = int(errors.max(0).argmax())
        places = np.flatnonzero(bad.any(1)).tolist()
        where = f"{int(bad.any(0).sum())} of {len(names)} arrays, most of all {names[array]}"
        return Difference("gradients", float(errors.max()), where, self._to_blame(places))

    def _to_blame(self, places: Sequence[int]) -> tuple[Any, ...]:
        """Nobody, where every position differs: then each device has what one of them spoilt."""
        if len(places) == self.mesh.size > 2:
            return ()
        return tuple(suspects(places, list(self.mesh.devices.flat), list(self.other.devices.flat)))
