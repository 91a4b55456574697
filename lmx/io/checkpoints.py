"""Checkpoints of a run: saved in the background, whole or not there, checked before they are used.

A save writes into a hidden folder, hashes every file, writes the manifest and renames the folder to its step: a
folder with a number for a name and a sound manifest is a checkpoint, nothing else is.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from lmx.io import arrays
from lmx.io.catalog import best_step, find_checkpoint, manifests, whole
from lmx.io.config import Checkpoint
from lmx.io.files import sync_directory
from lmx.io.leaves import describe, n_bytes, named_leaves, nest
from lmx.io.manifest import Leaf, Manifest, list_files, write_manifest
from lmx.io.restore import Restored, Warn, restore_params, restore_state
from lmx.io.retention import kept
from lmx.types import Tree

__all__ = ["Checkpoints", "Restored", "find_checkpoint", "restore_params", "warm_up"]

_WRITING, _LEAVING, _ASIDE = ".writing-", ".deleting-", "set-aside-"


def warm_up() -> threading.Thread:
    """Imports Orbax in the background, while something else takes time (compiling the first step)."""
    thread = threading.Thread(target=arrays.orbax, name="import-orbax", daemon=True)
    thread.start()
    return thread


class Checkpoints:
    """The checkpoints in one folder. Only `save` changes anything on disk."""

    def __init__(self, directory: Path, config: Checkpoint, *, warn: Warn) -> None:
        """`warn` is told of damaged checkpoints and of saves that failed; also from another thread."""
        self.directory = Path(os.path.abspath(directory))
        self.config = config
        self.failure: str | None = None
        """Why the newest save failed; None when it did not, or is not done yet."""
        self._warn = warn
        self._pending: threading.Thread | None = None
        self._error: BaseException | None = None
        self._retry_at: float | None = None
        self._newest: int | None = None
        self._swept = False

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, oldest first (contents not read)."""
        return list(whole(self.directory))

    def latest(self) -> int | None:
        """The newest whole checkpoint's step."""
        return max(whole(self.directory), default=None)

    def best(self) -> int | None:
        """The step of the whole checkpoint with the best evaluation; None where none was evaluated."""
        return best_step(whole(self.directory))

    def due(self, step: int, *, last: bool = False) -> bool:
        """Whether to save after this step; `last`: the run ends or is stopped here."""
        if step == self._newest:
            return False
        if last and self.config.final:
            return True
        if self.config.every is not None and step % self.config.every == 0:
            return True
        # One process only: several must agree on the step, and their clocks do not.
        again = self._retry_at is not None and time.monotonic() >= self._retry_at
        return again and jax.process_count() == 1

    def save(
        self, step: int, state: Tree, *, meta: dict[str, Any], metrics: dict[str, Any] | None = None
    ) -> None:
        """Starts to save; returns as soon as `state` may be donated. Waits for the save before it, if any.

        A disk that fails is told to `warn`, and never raised: the checkpoints before stay as they are, and
        `due` says when to try again. Every process of a job calls this at the same step.
        """
        self.wait()
        named = named_leaves(state)
        leaves = describe(named)
        temporary = self.directory / f"{_WRITING}{step}"
        self._newest, self._retry_at, self.failure = step, None, None
        try:
            if jax.process_index() == 0:
                self._sweep()
                self._check_space(leaves)
            finish = arrays.save(temporary, nest(named), compress=self.config.compression != "none")
        except Exception as error:
            self._failed(step, error)
            self.wait()
            return
        best = (self.config.best_metric, self.config.best_is)
        manifest = Manifest(step, meta, dict(metrics or {}), leaves, {}, best)
        self._pending = threading.Thread(
            target=self._complete, args=(temporary, manifest, finish), name=f"checkpoint-{step}"
        )
        self._pending.start()

    def wait(self) -> None:
        """Until the pending save is whole on disk, checksums and retention included.

        Raises what went wrong in it through no fault of the disk.
        """
        if self._pending is not None:
            self._pending.join()
            self._pending = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """`wait`, under the name that files have. To be called before the interpreter ends."""
        self.wait()

    def restore(self, abstract_state: Tree) -> Restored:
        """The newest checkpoint that is sound, bit for bit, in the shardings of `abstract_state`.

        Leaves are `jax.ShapeDtypeStruct`s that all carry a sharding, of whatever mesh. A damaged checkpoint is
        told to `warn`, with the file and what is wrong, and the one before it is used. RequestError where none
        is left, and where the newest does not fit: leaves missing, left over, of another shape or dtype.
        """
        self.wait()
        contents = self.config.verify == "contents"
        restored = restore_state(self.directory, abstract_state, warn=self._warn, contents=contents)
        self._newest = restored.step
        return restored

    def _check_space(self, leaves: dict[str, Leaf]) -> None:
        """Refuses before the disk is filled to the brim, where the run's other files would fail as well."""
        needed = n_bytes(leaves.values())
        disk = shutil.disk_usage(self.directory)
        if self.config.compression == "none" and disk.total > 0 and disk.free < needed:
            raise OSError(
                f"No space left on device ({needed / 1e6:,.1f} MB needed, {disk.free / 1e6:,.1f} MB free)"
            )

    def _complete(self, temporary: Path, manifest: Manifest, finish: Callable[[], None]) -> None:
        """In the background: waits for the arrays, hashes, marks as whole, renames, removes what need not stay."""
        try:
            finish()
            if jax.process_index() == 0:
                write_manifest(temporary, manifest._replace(files=list_files(temporary)))
                self._set_aside(manifest.step)
                os.rename(temporary, self.directory / str(manifest.step))
                sync_directory(self.directory)
                self._retain(manifest.step)
        except BaseException as error:
            self._failed(manifest.step, error)

    def _failed(self, step: int, error: BaseException) -> None:
        self._newest = None
        if jax.process_index() == 0:
            shutil.rmtree(self.directory / f"{_WRITING}{step}", ignore_errors=True)
        if not arrays.is_storage_error(error):
            self._error = error
            return
        self.failure = arrays.say_storage_error(error)
        self._retry_at = time.monotonic() + self.config.retry_after
        before = self.latest()
        stands = "there is none before it" if before is None else f"the one of step {before} stays"
        self._warn(
            f"the checkpoint of step {step} could not be saved in {self.directory}: {self.failure}; {stands}; "
            f"the next try is in {self.config.retry_after:g} s, or when the next is due"
        )

    def _sweep(self) -> None:
        """Makes the folder, and once removes what a killed process left unfinished."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            for prefix in (_WRITING, _LEAVING):
                for path in self.directory.glob(f"{prefix}*"):
                    shutil.rmtree(path, ignore_errors=True)
            self._swept = True

    def _retain(self, newest: int) -> None:
        """Removes what the configuration does not keep; later steps belong to a past that the run went back on."""
        for step in manifests(self.directory):
            if step > newest:
                self._set_aside(step)
        there = whole(self.directory)
        stay = kept({step: manifest.metrics for step, manifest in there.items()}, self.config)
        for step in there:
            if step not in stay:
                # Away in one rename, so that no half of it is ever seen; then its space is freed.
                leaving = self.directory / f"{_LEAVING}{step}"
                os.rename(self.directory / str(step), leaving)
                shutil.rmtree(leaving, ignore_errors=True)

    def _set_aside(self, step: int) -> None:
        """Gives what bears this step's number another name, under which it is no checkpoint."""
        path = self.directory / str(step)
        if path.exists():
            aside = self.directory / f"{_ASIDE}{step}"
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(path, aside)
            self._warn(
                f"{path} is older than this run's new checkpoints; it is now {aside.name}, and may be deleted"
            )
