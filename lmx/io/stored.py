"""The checkpoints that a run has, in its own folder and in the remote tier: which there are, and loading one.

A folder with a number for a name and a sound manifest is a checkpoint, nothing else is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from lmx.config.errors import RequestError
from lmx.io import arrays
from lmx.io.config import Checkpoint
from lmx.io.leaves import describe, misfits, named_leaves, nest, pick
from lmx.io.manifest import Manifest, damages, read_manifest
from lmx.io.remote import in_remote, is_step
from lmx.io.retention import ranked
from lmx.types import Tree

log = logging.getLogger("lmx")

Which = int | Literal["last", "best"] | None
Warn = Callable[[str], None]


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


class Stored:
    """The checkpoints in one folder, for reading: nothing on disk is changed."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        config: Checkpoint | None = None,
        *,
        warn: Warn = log.warning,
    ) -> None:
        """Without `config` every byte is verified before loading. `warn` is told of damaged checkpoints."""
        self.directory = Path(os.path.abspath(directory))
        self.config = config
        self._warn = warn

    # ---- what there is

    def manifests(self) -> dict[int, Manifest | str]:
        """Step -> manifest, or what is wrong with it, for every folder with a number for a name; oldest first."""
        names = [p for p in self.directory.glob("*") if is_step(p.name) and p.is_dir()]
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
        steps = [asked] if asked is not None else sorted(self._choices(), reverse=True)
        bad: list[str] = []
        for step in steps:
            problem = self._problem(step, misfit)
            if problem is not None and self._bring(step, problem):
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
        raise RequestError(
            "\n  ".join([f"{self.directory} has no whole checkpoint", *bad, *self._elsewhere()])
        )

    def _choices(self) -> set[int]:
        """Steps that may have a checkpoint."""
        return set(self.manifests())

    def _elsewhere(self) -> list[str]:
        """Where else a checkpoint may be."""
        run = self.directory.parent
        return [f"the remote tier may have one: `lmx train resume={run}` brings it"] if in_remote(run) else []

    def _bring(self, step: int, problem: str) -> bool:
        """Whether a checkpoint that cannot be used was replaced from elsewhere."""
        return False

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
