"""Checkpoints of a run: saved in the background, whole or not there, checked before they are used.

A save writes into a hidden folder, hashes every file, writes the manifest and renames the folder to its step.
A folder with a number for a name and a sound manifest is a checkpoint, nothing else is.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from lmx.config.errors import RequestError
from lmx.io import arrays
from lmx.io.config import Checkpoint
from lmx.io.files import sync_directory
from lmx.io.leaves import describe, misfits, n_bytes, named_leaves, nest, pick
from lmx.io.manifest import Leaf, Manifest, damages, list_files, read_manifest, write_manifest
from lmx.io.retention import kept, ranked
from lmx.types import Tree

log = logging.getLogger("lmx")

Which = int | Literal["last", "best"] | None
Warn = Callable[[str], None]
Tell = Callable[[Literal["written", "saved", "unsaved"], int], None]
_WRITING, _LEAVING, _ASIDE = ".writing-", ".deleting-", "set-aside-"


def warm_up() -> threading.Thread:
    """Imports what the first save needs in the background, where it costs no time of the first steps."""
    thread = threading.Thread(target=arrays.orbax, name="import-orbax")
    thread.start()
    return thread


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def _read(path: Path) -> Manifest | str:
    """The manifest of the folder of a step, or what is wrong with it."""
    found = read_manifest(path)
    if isinstance(found, Manifest) and str(found.step) != path.name:
        return f"it is the checkpoint of step {found.step}: the folder was renamed or copied"
    return found


class Restored(NamedTuple):
    """A loaded state (or params), with what was saved beside it."""

    state: Tree
    meta: dict[str, Any]
    step: int
    metrics: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder. Reading changes nothing on disk; only `save` and `rewind` do."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        config: Checkpoint | None = None,
        *,
        warn: Warn = log.warning,
        tell: Tell = lambda moment, step: None,
    ) -> None:
        """`config` is needed to save; without it every byte is verified before loading.

        `warn` takes what must not be missed: a damaged checkpoint, a save that failed. `tell` is called by the thread
        that writes when a step's arrays are on disk, and when its checkpoint is whole, or could not be written.
        """
        self.directory = Path(os.path.abspath(directory))
        self.config = config
        self._warn = warn
        self._tell = tell
        self.failure: str | None = None
        """Why the newest save failed; None when it did not, or is not done yet."""
        self._pending: threading.Thread | None = None
        self._error: BaseException | None = None
        self._retry_at: float | None = None
        self._newest: int | None = None
        self._swept = False

    # ---- what there is

    def manifests(self) -> dict[int, Manifest | str]:
        """Step -> manifest, or what is wrong with it, for every folder with a number for a name; oldest first."""
        names = [p for p in self.directory.glob("*") if _is_step(p.name) and p.is_dir()]
        return {int(p.name): _read(p) for p in sorted(names, key=lambda p: int(p.name))}

    def _whole(self) -> dict[int, Manifest]:
        """Checkpoints with a sound manifest and files of the right sizes."""
        return {
            step: manifest
            for step, manifest in self.manifests().items()
            if isinstance(manifest, Manifest) and not damages(self._path(step), manifest, contents=False)
        }

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, oldest first (contents not read)."""
        return list(self._whole())

    def latest(self) -> int | None:
        """The newest whole checkpoint's step."""
        return max(self._whole(), default=None)

    def best(self) -> int | None:
        """The step with the best evaluation, None where none was evaluated."""
        whole = self._whole()
        if not whole:
            return None
        name, order = whole[max(whole)].best
        order_of = ranked({step: m.metrics for step, m in whole.items()}, name, order)
        return order_of[0] if order_of else None

    def manifest(self, which: Which = None) -> Manifest:
        """What a checkpoint says of itself; RequestError where it is not there or not whole."""
        step = self._resolve(which)
        found = _read(self._path(step))
        if isinstance(found, str):
            raise RequestError(f"{self._path(step)} cannot be used: {found}")
        return found

    def _path(self, step: int) -> Path:
        return self.directory / str(step)

    # ---- saving

    def due(self, step: int, *, last: bool = False) -> bool:
        """Whether to save after this step; `last`: the run ends here."""
        assert self.config is not None
        if step == self._newest:
            return False
        if last and self.config.final:
            return True
        if self.config.every is not None and step % self.config.every == 0:
            return True
        # Only one process: several must agree on the step, and their clocks do not.
        again = self._retry_at is not None and time.monotonic() >= self._retry_at
        return again and jax.process_count() == 1

    def save(
        self, step: int, state: Tree, *, meta: dict[str, Any], metrics: dict[str, Any] | None = None
    ) -> None:
        """Starts to save; returns as soon as `state` may be donated. Waits for the save before it, if any.

        A disk that fails is reported, never raised: the checkpoints before stay as they are, and `due` says when
        to try again. Every process of a job calls this at the same step.
        """
        config = self.config
        if config is None:
            raise ValueError("these checkpoints were opened for reading; give their configuration to save")
        self.wait()
        named = named_leaves(state)
        leaves = describe(named)
        try:
            if jax.process_index() == 0:
                self._sweep()
                self._check_space(leaves)
            temporary = self.directory / f"{_WRITING}{step}"
            finish = arrays.save(temporary, nest(named), compress=config.compression != "none")
        except Exception as error:
            self._failed(step, error)
            return
        best = (config.best_metric, config.best_is)
        manifest = Manifest(step, meta, dict(metrics or {}), leaves, {}, best)
        self._newest, self._retry_at, self.failure = step, None, None
        self._pending = threading.Thread(
            target=self._complete, args=(temporary, manifest, finish), name=f"checkpoint-{step}"
        )
        self._pending.start()

    def _check_space(self, leaves: dict[str, Leaf]) -> None:
        """OSError before the disk is full to the brim, where the run's other files would fail as well."""
        assert self.config is not None
        if self.config.compression != "none":
            return  # its size is known only when it is written
        needed, free = n_bytes(leaves.values()), shutil.disk_usage(self.directory).free
        if free < needed:
            message = f"No space left on device: {needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free"
            raise OSError(message)

    def _complete(self, temporary: Path, manifest: Manifest, finish: Callable[[], None]) -> None:
        """In the background: waits for the arrays, hashes, marks as whole, renames, removes the superfluous."""
        try:
            finish()
            self._tell("written", manifest.step)
            if jax.process_index() == 0:
                write_manifest(temporary, manifest._replace(files=list_files(temporary)))
                self._set_aside(manifest.step)
                os.rename(temporary, self._path(manifest.step))
                sync_directory(self.directory)
        except BaseException as error:
            self._failed(manifest.step, error)
            return
        self._tell("saved", manifest.step)
        if jax.process_index() == 0:
            try:
                self.rewind(manifest.step)
                self._retain()
            except OSError as error:
                self._warn(f"old checkpoints in {self.directory} could not be removed: {error}")
            except BaseException as error:
                self._error = error

    def _failed(self, step: int, error: BaseException) -> None:
        self._newest = None
        if jax.process_index() == 0:
            shutil.rmtree(self.directory / f"{_WRITING}{step}", ignore_errors=True)
        if not arrays.is_storage_error(error):
            self._error = error
            return
        self._tell("unsaved", step)
        assert self.config is not None
        self.failure = arrays.say_storage_error(error)
        self._retry_at = time.monotonic() + self.config.retry_after
        before = self.latest()
        stands = "there is none before it" if before is None else f"the one of step {before} stays"
        self._warn(
            f"the checkpoint of step {step} was not saved in {self.directory}: {self.failure}; {stands}; "
            f"trying again after {self.config.retry_after:g} s, or when the next is due"
        )

    def _sweep(self) -> None:
        """Makes the folder, and once removes what a killed process left unfinished."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            for prefix in (_WRITING, _LEAVING):
                for path in self.directory.glob(f"{prefix}*"):
                    shutil.rmtree(path, ignore_errors=True)
            self._swept = True

    def _retain(self) -> None:
        assert self.config is not None
        whole = self._whole()
        stay = kept({step: manifest.metrics for step, manifest in whole.items()}, self.config)
        for step in whole:
            if step not in stay:
                self._remove(step)

    def _remove(self, step: int) -> None:
        """Takes the checkpoint away in one rename, so that no half of it is seen, then frees its space."""
        leaving = self.directory / f"{_LEAVING}{step}"
        os.rename(self._path(step), leaving)
        shutil.rmtree(leaving, ignore_errors=True)

    def _set_aside(self, step: int) -> None:
        """Keeps what bears this step's name under another one, where it is no checkpoint."""
        if self._path(step).exists():
            aside = self.directory / f"{_ASIDE}{step}"
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(self._path(step), aside)
            self._warn(f"{self._path(step)} is set aside as {aside.name}: this run writes that step anew")

    def rewind(self, step: int) -> None:
        """Sets aside everything after `step`: a run that goes on from there writes those steps anew."""
        if jax.process_index() == 0:
            for later in self.manifests():
                if later > step:
                    self._set_aside(later)

    def wait(self) -> None:
        """Until the pending save is whole on disk, checksums included; raises what is no fault of the disk."""
        if self._pending is not None:
            self._pending.join()
            self._pending = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """`wait`, under the name that files have."""
        self.wait()

    # ---- loading

    def restore(self, abstract_state: Tree, which: Which = None) -> Restored:
        """Loads a checkpoint into the shapes, dtypes and shardings of `abstract_state`, bit for bit.

        `which`: a step, `best`, or the newest. Where the newest is damaged, that is said and the one before it is
        used. Raises RequestError where nothing whole is there, where the checkpoint asked for is damaged, and
        where leaves are missing, left over, or of another shape or dtype: nothing is loaded then.
        """
        wanted = named_leaves(abstract_state)
        manifest = self._choose(which, lambda m: misfits(m.leaves, describe(wanted)))
        loaded = arrays.load(self._path(manifest.step), nest(wanted), partial=False)
        self._newest = manifest.step
        return self._restored(manifest, abstract_state, loaded, prefix="")

    def restore_params(
        self, abstract_params: Tree, which: Which = None, *, weights: Literal["params", "ema"] = "params"
    ) -> Restored:
        """Loads the parameters alone (or their average), converted to the dtypes of `abstract_params`.

        Shapes and names must be those of the checkpoint; RequestError otherwise.
        """
        wanted = {f"{weights}.{name}": leaf for name, leaf in named_leaves(abstract_params).items()}

        def check(manifest: Manifest) -> str | None:
            saved = {name: leaf for name, leaf in manifest.leaves.items() if name.startswith(f"{weights}.")}
            if not saved and weights == "ema":
                return "  it holds no average of the weights: the run had optimizer.ema_decay=null"
            return misfits(saved, describe(wanted), dtypes=False)

        manifest = self._choose(which, check)
        loaded = arrays.load(self._path(manifest.step), nest(wanted), partial=True)
        return self._restored(manifest, abstract_params, loaded, prefix=f"{weights}.")

    def _restored(
        self, manifest: Manifest, abstract: Tree, loaded: dict[str, Any], *, prefix: str
    ) -> Restored:
        leaves = [pick(loaded, prefix + name) for name in named_leaves(abstract)]
        state = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
        return Restored(state, manifest.meta, manifest.step, manifest.metrics)

    def _resolve(self, which: Which) -> int:
        if isinstance(which, int):
            if not self._path(which).is_dir():
                known = ", ".join(map(str, self.steps())) or "none"
                raise RequestError(f"{self.directory} has no checkpoint of step {which}; it has {known}")
            return which
        step = self.best() if which == "best" else self.latest()
        if step is None:
            detail = "\n".join(f"  {s}: {m}" for s, m in self.manifests().items() if isinstance(m, str))
            wanted = "evaluated checkpoint" if which == "best" else "whole checkpoint"
            raise RequestError(f"{self.directory} has no {wanted}" + (f":\n{detail}" if detail else ""))
        return step

    def _choose(self, which: Which, misfit: Callable[[Manifest], str | None]) -> Manifest:
        """The checkpoint to load, verified; process 0 decides for all, so that none takes another."""
        chosen = -1
        problem: Exception | None = None
        if jax.process_index() == 0:
            try:
                chosen = self._verified(which, misfit)
            except Exception as error:
                problem = error
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            chosen = int(multihost_utils.broadcast_one_to_all(jax.numpy.int32(chosen)))
        if problem is not None:
            raise problem
        if chosen < 0:
            raise RequestError("process 0 could not restore a checkpoint; its message says why")
        return self.manifest(chosen)

    def _verified(self, which: Which, misfit: Callable[[Manifest], str | None]) -> int:
        asked = self._resolve(which) if which not in (None, "last") else None
        steps = [asked] if asked is not None else sorted(self.manifests(), reverse=True)
        bad: list[str] = []
        for step in steps:
            problem = self._problem(step, misfit)
            if problem is None:
                if bad:
                    self._warn(f"using the checkpoint before it, of step {step}")
                return step
            bad.append(f"{self._path(step)} is damaged: {problem}")
            if asked is None:
                self._warn(bad[-1])
        if asked is not None:
            raise RequestError(bad[0])
        raise RequestError("\n  ".join([f"{self.directory} has no whole checkpoint", *bad]))

    def _problem(self, step: int, misfit: Callable[[Manifest], str | None]) -> str | None:
        """What is wrong with a checkpoint's files; RequestError where they are sound but do not fit."""
        manifest = _read(self._path(step))
        if isinstance(manifest, str):
            return manifest
        if (lines := misfit(manifest)) is not None:
            raise RequestError(f"{self._path(step)} does not fit this configuration\n{lines}")
        contents = self.config is None or self.config.verify == "contents"
        found = damages(self._path(step), manifest, contents=contents)
        return "; ".join(found) or None
