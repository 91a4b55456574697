"""Loading a checkpoint: what does not fit is refused, what is damaged is named and passed over, before any array is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from lmx.config.errors import RequestError
from lmx.io import arrays
from lmx.io.catalog import FOLDER, checkpoints_directory, is_step, manifests
from lmx.io.leaves import describe, misfits, named_leaves, nest, pick
from lmx.io.manifest import NAME, Manifest, damages, read_manifest
from lmx.types import Tree

Warn = Callable[[str], None]
Weights = Literal["params", "ema", "auto"]
Misfit = Callable[[Manifest], str | None]


class Restored(NamedTuple):
    """A loaded state, the step that it belongs to, and what was saved beside it."""

    state: Tree
    step: int
    meta: dict[str, Any]


def restore_state(directory: Path, abstract_state: Tree, *, warn: Warn, contents: bool = True) -> Restored:
    """The newest checkpoint in `directory` whose files are sound, in the shardings of `abstract_state`.

    Every damaged one that is passed over is named to `warn`. RequestError where none is left, and where the
    newest sound one has leaves missing, left over, or of another shape or dtype.
    """
    wanted = named_leaves(abstract_state)
    misfit = lambda manifest: misfits(manifest.leaves, describe(wanted))
    candidates = lambda: [directory / str(step) for step in sorted(manifests(directory), reverse=True)]
    path = _agree(lambda: _choose(directory, candidates(), misfit, warn=warn, contents=contents))
    manifest = _sound(path)
    loaded = arrays.load(path, nest(wanted), partial=False)
    state = jax.tree.unflatten(jax.tree.structure(abstract_state), [pick(loaded, name) for name in wanted])
    return Restored(state, manifest.step, manifest.meta)


def restore_params(
    path: Path, abstract_params: Tree, *, warn: Warn, weights: Weights = "auto", contents: bool = True
) -> tuple[Tree, dict[str, Any]]:
    """The parameters of a checkpoint, in the dtypes and shardings of `abstract_params`, and its meta.

    `path` is a checkpoint (an error where it is damaged), or a run directory (then damaged ones are named to
    `warn` and passed over). `weights`: `params`; `ema`, their average; `auto`, the average where there is one.
    The optimizer's state is neither needed nor read. RequestError where names or shapes differ.
    """
    path = Path(path)
    wanted = named_leaves(abstract_params)

    def misfit(manifest: Manifest) -> str | None:
        root = _root(manifest, weights)
        saved = {name: leaf for name, leaf in manifest.leaves.items() if name.startswith(f"{root}.")}
        if not saved and root == "ema":
            return "  it holds no average of the weights (ema)"
        return misfits(
            saved, describe({f"{root}.{name}": leaf for name, leaf in wanted.items()}), dtypes=False
        )

    def choose() -> Path:
        if (path / NAME).exists() or (is_step(path.name) and path.parent.name == FOLDER):
            return _choose(path, [path], misfit, warn=None, contents=contents)
        directory = checkpoints_directory(path)
        steps = sorted(manifests(directory), reverse=True)
        return _choose(directory, [directory / str(s) for s in steps], misfit, warn=warn, contents=contents)

    chosen = _agree(choose)
    manifest = _sound(chosen)
    root = _root(manifest, weights)
    loaded = arrays.load(chosen, {root: nest(wanted)}, partial=True)
    leaves = [pick(loaded[root], name) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(abstract_params), leaves), manifest.meta


def _root(manifest: Manifest, weights: Weights) -> str:
    if weights != "auto":
        return weights
    return "ema" if any(name.startswith("ema.") for name in manifest.leaves) else "params"


def _sound(path: Path) -> Manifest:
    manifest = read_manifest(path)
    if isinstance(manifest, str):
        raise RequestError(f"{path}: this checkpoint cannot be used: {manifest}")
    return manifest


def _choose(
    place: Path, candidates: list[Path], misfit: Misfit, *, warn: Warn | None, contents: bool
) -> Path:
    """The first sound candidate; RequestError where it does not fit, or none is sound."""
    bad: list[str] = []
    for path in candidates:
        problem = _problem(path, misfit, contents=contents)
        if problem is None:
            if bad and warn:
                warn(f"using the checkpoint before it: {path}")
            return path
        bad.append(f"checkpoint {path} is damaged: {problem}")
        if warn:
            warn(bad[-1])
    if not bad:
        raise RequestError(f"{place}: has no checkpoint")
    if len(bad) == 1 and place == candidates[0]:
        raise RequestError(bad[0])
    raise RequestError("\n  ".join([f"{place}: has no checkpoint that is whole; tried", *bad]))


def _problem(path: Path, misfit: Misfit, *, contents: bool) -> str | None:
    """What is wrong with a checkpoint's files; RequestError where its manifest is sound but does not fit."""
    manifest = read_manifest(path)
    if isinstance(manifest, str):
        return manifest
    if is_step(path.name) and path.name != str(manifest.step):
        return f"{NAME} says that it is the checkpoint of step {manifest.step}: the folder was renamed"
    if (lines := misfit(manifest)) is not None:
        raise RequestError(f"checkpoint {path} does not fit this configuration:\n{lines}")
    return "; ".join(damages(path, manifest, contents=contents)) or None


def _agree(choose: Callable[[], Path]) -> Path:
    """Process 0 chooses for all, so that none loads another checkpoint than the others."""
    if jax.process_count() == 1:
        return choose()
    import numpy as np
    from jax.experimental import multihost_utils

    chosen, problem = "", None
    if jax.process_index() == 0:
        try:
            chosen = str(choose())
        except Exception as error:
            problem = error
    encoded = np.zeros(4096, np.uint8)
    encoded[: len(chosen.encode())] = np.frombuffer(chosen.encode(), np.uint8)
    told = bytes(np.asarray(multihost_utils.broadcast_one_to_all(encoded))).rstrip(b"\0").decode()
    if problem is not None:
        raise problem
    if not told:
        raise RequestError("no checkpoint could be restored; the message of process 0 says why")
    return Path(told)
