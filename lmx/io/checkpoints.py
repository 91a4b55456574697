"""Checkpoints of a run: saved in the background, whole or not there, checked before they are used.

A save writes into a hidden folder, hashes every file, writes the manifest and renames the folder to its step. Then,
where there is a remote tier, a copy goes there.
"""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
from typing_extensions import override

from lmx.io import arrays
from lmx.io.cadence import Agree, Cadence
from lmx.io.config import Checkpoint
from lmx.io.files import sync_directory
from lmx.io.leaves import describe, n_bytes, named_leaves, nest
from lmx.io.manifest import Leaf, Manifest, list_files, write_manifest
from lmx.io.remote import Remote
from lmx.io.retention import kept
from lmx.io.stored import Restored, Stored, Warn, Which, log
from lmx.io.together import Joint, told
from lmx.io.uploads import Uploads
from lmx.types import Tree

Tell = Callable[[Literal["written", "saved", "unsaved", "sent", "unsent"], int], None]
_WRITING, _LEAVING, _ASIDE = ".writing-", ".deleting-", "set-aside-"


def warm_up() -> threading.Thread:
    """Imports what the first save needs in the background, where it costs no time of the first steps."""
    thread = threading.Thread(target=arrays.orbax, name="import-orbax")
    thread.start()
    return thread


class Checkpoints(Stored):
    """The checkpoints of a run that saves."""

    config: Checkpoint

    def __init__(
        self,
        directory: str | os.PathLike[str],
        config: Checkpoint,
        *,
        remote: Remote | None = None,
        agree: Agree | None = None,
        warn: Warn = log.warning,
        tell: Tell = lambda moment, step: None,
    ) -> None:
        """`remote`: where copies go as `config.remote` says (of several processes the first has it); `agree`: see
        `lmx.io.cadence`.

        `warn` takes what must not be missed: a damaged checkpoint, a save that failed. `tell` is called by the threads
        that write when a step's arrays are on disk, when its checkpoint is whole, or could not be written, and when it
        is in the remote tier, or will not come there.
        """
        super().__init__(directory, config, warn=warn)
        self._tell = tell
        self.failure: str | None = None
        """Why the newest save failed; None when it did not, or is not done yet."""
        self._pending: threading.Thread | None = None
        self._error: BaseException | None = None
        self._newest: int | None = None
        self._swept, self._numbers = False, itertools.count()
        self._cadence = Cadence(config, agree=agree)
        self._remote, self._uploads = remote, None
        if remote is not None and config.remote is not None:
            best = (config.best_metric, config.best_is)
            self._uploads = Uploads(remote, config.remote, self.directory, best=best, warn=warn, tell=tell)

    # ---- saving

    def due(self, step: int, *, last: bool = False) -> bool:
        """Whether to save after this step; `last`: the run ends here, and what is pending is waited for."""
        if last:
            self.wait()
        by_cadence = self._cadence.due(step)
        return step != self._newest and ((last and self.config.final) or by_cadence)

    def save(
        self, step: int, state: Tree, *, meta: dict[str, Any], metrics: dict[str, Any] | None = None
    ) -> None:
        """Starts to save; returns as soon as `state` may be donated. Waits for the save before it, if any.

        A disk that fails is reported, never raised: the checkpoints before stay as they are, and `due` says when
        to try again. Every process of a job calls this at the same step.
        """
        config = self.config
        self.wait()
        named = named_leaves(state)
        leaves = describe(named)
        # Each has a folder of its own: what was given up may still be written to.
        temporary = self.directory / f"{_WRITING}{step}-{next(self._numbers)}"
        problem = self._prepare(temporary, leaves)
        if problem is not None:
            self._failed(step, temporary, problem)
            return
        try:
            finish = arrays.save(temporary, nest(named), compress=config.compression != "none")
        except Exception as error:
            finish = arrays.raising(error)
        best = (config.best_metric, config.best_is)
        manifest = Manifest(step, meta, dict(metrics or {}), leaves, {}, best)
        self._newest, self.failure = step, None
        self._cadence.began()
        self._pending = threading.Thread(
            target=self._complete, args=(temporary, manifest, finish, Joint()), name=f"checkpoint-{step}"
        )
        self._pending.start()

    def _prepare(self, temporary: Path, leaves: dict[str, Leaf]) -> Exception | None:
        """Makes the folder to write into; what prevents it, known to all processes: they write together or not at all.

        A process that did not take part would be waited for by Orbax in the others, in this save and the next.
        """
        problem: Exception | None = None
        if jax.process_index() == 0:
            try:
                self._sweep()
                self._check_space(leaves)
                temporary.mkdir(exist_ok=True)
            except Exception as error:
                problem = error
        if told(problem is not None) and problem is None:
            problem = OSError("process 0 cannot write; its message says why")
        return problem

    def _check_space(self, leaves: dict[str, Leaf]) -> None:
        """OSError before the disk is full to the brim, where the run's other files would fail as well."""
        if self.config.compression != "none":
            return  # its size is known only when it is written
        needed, free = n_bytes(leaves.values()), shutil.disk_usage(self.directory).free
        if free < needed:
            message = f"No space left on device: {needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free"
            raise OSError(message)

    def _complete(
        self, temporary: Path, manifest: Manifest, finish: Callable[[], None], joint: Joint
    ) -> None:
        """In the background: waits for the arrays, hashes, marks as whole, renames, removes the superfluous."""

        def write() -> None:
            finish()
            self._tell("written", manifest.step)

        try:
            with joint.done(write, arrays.say_storage_error):
                if jax.process_index() == 0:
                    write_manifest(temporary, manifest._replace(files=list_files(temporary)))
                    self._set_aside(manifest.step)
                    os.rename(temporary, self._path(manifest.step))
                    sync_directory(self.directory)
        except BaseException as error:
            self._failed(manifest.step, temporary, error)
            return
        self._tell("saved", manifest.step)
        if jax.process_index() == 0:
            if self._uploads is not None:
                self._uploads.add(manifest.step)
            try:
                self.rewind(manifest.step)
                self._retain()
            except OSError as error:
                self._warn(f"old checkpoints in {self.directory} could not be removed: {error}")
            except BaseException as error:
                self._error = error

    def _failed(self, step: int, temporary: Path, error: BaseException) -> None:
        self._newest, self._swept = None, False
        if jax.process_index() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        if not arrays.is_storage_error(error):
            self._error = error
            return
        self._tell("unsaved", step)
        self.failure = arrays.say_storage_error(error)
        self._cadence.failed()
        before = self.latest()
        stands = "there is none before it" if before is None else f"the one of step {before} stays"
        self._warn(
            f"the checkpoint of step {step} was not saved in {self.directory}: {self.failure}; {stands}; "
            f"trying again after {self.config.retry_after:g} s, or when the next is due"
        )

    def _sweep(self) -> None:
        """Makes the folder, and removes what is unfinished in it: of a killed process, of saves that failed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            for prefix in (_WRITING, _LEAVING):
                for path in self.directory.glob(f"{prefix}*"):
                    shutil.rmtree(path, ignore_errors=True)
            self._swept = True

    def _retain(self) -> None:
        whole = self._whole()
        best = (self.config.best_metric, self.config.best_is)
        stay = kept({step: manifest.metrics for step, manifest in whole.items()}, self.config, best)
        if self._uploads is not None:
            stay |= self._uploads.needed()
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

    def close(self) -> list[int]:
        """`wait`, and until what is here is in the remote tier too, if there is one: the steps that are not there."""
        self.wait()
        if self._uploads is None:
            return []
        newest = self.latest()
        if newest is not None and newest == self._newest:
            self._uploads.add(newest, always=True)
        return self._uploads.finish()

    # ---- going on

    @override
    def restore(self, abstract_state: Tree, which: Which = None) -> Restored:
        """As without a remote tier; where a step is not whole here, it is brought from there."""
        found = super().restore(abstract_state, which)
        self._newest = found.step
        return found

    @override
    def _choices(self) -> set[int]:
        here = super()._choices()
        if self._remote is None:
            return here
        try:
            return here | set(self._remote.manifests())
        except Exception as error:  # of any file system: each has errors of its own
            self._warn(
                f"{self._remote.url} cannot be read, whatever it holds: {arrays.say_storage_error(error)}"
            )
            return here

    @override
    def _elsewhere(self) -> list[str]:
        """Nowhere: the remote tier, if there is one, was asked."""
        return []

    @override
    def _bring(self, step: int, problem: str) -> bool:
        if self._remote is None:
            return False
        temporary = self.directory / f"{_WRITING}{step}"
        try:
            self._sweep()
            self._remote.bring(step, temporary)
            self._set_aside(step)
            os.rename(temporary, self._path(step))
            sync_directory(self.directory)
        except Exception as error:
            shutil.rmtree(temporary, ignore_errors=True)
            self._warn(f"{self._remote.url}/{step} is no help: {arrays.say_storage_error(error)}")
            return False
        self._warn(f"the checkpoint of step {step} was brought from {self._remote.url}; here: {problem}")
        return True

    def catch_up(self, step: int) -> None:
        """For a run that goes on after `step`: the remote tier has nothing after it, and gets what it lacks."""
        if self._remote is None or self._uploads is None:
            return
        try:
            there = self._remote.manifests()
            for later in (s for s in there if s > step):
                self._remote.set_aside(later)
                self._warn(f"{self._remote.url}/{later} is set aside: this run writes that step anew")
        except Exception as error:
            self._warn(f"{self._remote.url} cannot be read: {arrays.say_storage_error(error)}")
            there = {}
        self._uploads.is_there(there)
        for here in self._whole():
            if here == step or self._uploads.permanent(here):
                self._uploads.add(here, always=True)
