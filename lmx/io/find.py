"""From a path that a person gives to a checkpoint, and to the parameters in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lmx.config.errors import RequestError
from lmx.io.manifest import NAME, Manifest, damages
from lmx.io.stored import Stored, Warn
from lmx.types import Tree

FOLDER = "checkpoints"
"""Where a run directory keeps them."""


def find_checkpoint(path: str | Path, which: int | Literal["last", "best"] = "last") -> Path:
    """The folder of one checkpoint, all its files there (their contents are checked when it is loaded).

    `path` is a run directory, its `checkpoints`, or a checkpoint itself (`which` is not looked at then). `which`
    is `last`, `best` (by the metric of its run), or a step. RequestError where there is none.
    """
    directory, step = _split(Path(path))
    chosen = which if step is None else step
    checkpoints = Stored(directory)
    manifest: Manifest = checkpoints.manifest(chosen)
    folder = directory / str(manifest.step)
    if found := damages(folder, manifest, contents=False):
        raise RequestError(f"{folder} is damaged: {'; '.join(found)}")
    return folder


def restore_params(
    path: str | Path, abstract_params: Tree, *, warn: Warn, weights: Literal["params", "ema", "auto"]
) -> tuple[Tree, dict[str, Any]]:
    """The parameters of a checkpoint, in the dtypes and shardings of `abstract_params`, and its meta.

    `path` is a checkpoint, or a run directory (then the newest; damaged ones are told to `warn` and passed over).
    `weights`: `params`; `ema`, their average; or `auto`, the average where the newest checkpoint has one. Neither
    needs nor reads the optimizer's state. RequestError for damage, and where names or shapes differ.
    """
    directory, step = _split(Path(path))
    checkpoints = Stored(directory, warn=warn)
    if weights == "auto":
        leaves = checkpoints.manifest(step).leaves
        weights = "ema" if any(name.startswith("ema.") for name in leaves) else "params"
    restored = checkpoints.restore_params(abstract_params, step, weights=weights)
    return restored.state, restored.meta


def _split(path: Path) -> tuple[Path, int | None]:
    """The folder that holds checkpoints, and the step where `path` is one of them."""
    is_number = path.name.isascii() and path.name.isdecimal()
    if is_number and ((path / NAME).exists() or path.parent.name == FOLDER):
        return path.parent, int(path.name)
    if (path / FOLDER).is_dir():
        return path / FOLDER, None
    if path.is_dir() and path.name == FOLDER:
        return path, None
    if not path.exists():
        raise RequestError(f"{path}: no such directory")
    raise RequestError(f"{path}: is neither a run directory (with {FOLDER}/ in it) nor a checkpoint")
