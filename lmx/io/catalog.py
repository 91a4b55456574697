"""Which checkpoints a folder holds, and the one that a person means. Reads manifests only, and never changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from lmx.config.errors import RequestError
from lmx.io import manifest as manifests_file
from lmx.io.manifest import Manifest, damages, read_manifest
from lmx.io.retention import ranked

FOLDER = "checkpoints"
"""Where a run directory keeps them."""

Which = int | Literal["last", "best"]


def manifests(directory: Path) -> dict[int, Manifest | str]:
    """Step -> manifest, or what is wrong with it, for every folder whose name is a step; oldest first."""
    found = [p for p in directory.glob("*") if is_step(p.name) and p.is_dir()]
    return {int(p.name): _read(p) for p in sorted(found, key=lambda p: int(p.name))}


def is_step(name: str) -> bool:
    """Whether a folder's name is the number of a step, as `str` writes it."""
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def _read(path: Path) -> Manifest | str:
    found = read_manifest(path)
    if isinstance(found, Manifest) and str(found.step) != path.name:
        return f"{manifests_file.NAME} says that it is the checkpoint of step {found.step}: the folder was renamed"
    return found


def whole(directory: Path) -> dict[int, Manifest]:
    """Checkpoints with a sound manifest and all files, of the right sizes; oldest first. Contents are not read."""
    return {
        step: manifest
        for step, manifest in manifests(directory).items()
        if isinstance(manifest, Manifest) and not damages(directory / str(step), manifest, contents=False)
    }


def best_step(found: Mapping[int, Manifest]) -> int | None:
    """The step with the best evaluation, by the metric that the newest names; None where none was evaluated."""
    if not found:
        return None
    name, order = found[max(found)].best
    steps = ranked({step: manifest.metrics for step, manifest in found.items()}, name, order)
    return steps[0] if steps else None


def checkpoints_directory(path: Path) -> Path:
    """The folder of a run's checkpoints, given it or the run directory; RequestError for anything else."""
    if not path.is_dir():
        raise RequestError(f"{path}: no such directory")
    if (path / FOLDER).is_dir():
        return path / FOLDER
    if path.name == FOLDER or any(is_step(p.name) for p in path.iterdir()):
        return path
    raise RequestError(
        f"{path}: is neither a run directory with {FOLDER}/ in it nor a checkpoint with {manifests_file.NAME} in it"
    )


def find_checkpoint(path: Path, which: Which = "last") -> Path:
    """The folder of one checkpoint, its files all there (their contents are checked when it is loaded).

    `path` is a run directory, its `checkpoints`, or a checkpoint itself (then `which` is not looked at).
    `which` is `last`, `best` (by the metric of its run), or a step. RequestError where there is none.
    """
    path = Path(path)
    if (path / manifests_file.NAME).exists() or (is_step(path.name) and path.parent.name == FOLDER):
        problem = _problem(path)
        if problem:
            raise RequestError(f"{path}: this checkpoint cannot be used: {problem}")
        return path
    directory = checkpoints_directory(path)
    found = whole(directory)
    step = (
        which
        if isinstance(which, int)
        else (best_step(found) if which == "best" else max(found, default=None))
    )
    if step is not None and step in found:
        return directory / str(step)
    raise RequestError(_none_such(directory, which, found))


def _problem(path: Path) -> str | None:
    if not path.is_dir():
        return "no such directory"
    manifest = read_manifest(path)
    return (
        manifest if isinstance(manifest, str) else "; ".join(damages(path, manifest, contents=False)) or None
    )


def _none_such(directory: Path, which: Which, found: Mapping[int, Manifest]) -> str:
    """Why there is no such checkpoint, and what there is instead."""
    if isinstance(which, int) and (directory / str(which)).is_dir():
        return f"{directory / str(which)}: this checkpoint cannot be used: {_problem(directory / str(which))}"
    have = f"it has those of steps {', '.join(map(str, found))}" if found else "it has none that is whole"
    if isinstance(which, int):
        return f"{directory}: has no checkpoint of step {which}; {have}"
    if which == "best" and found:
        return f"{directory}: no checkpoint was evaluated, so none is the best; {have}"
    bad = [f"\n  {step}: {_problem(directory / str(step))}" for step in manifests(directory)]
    return f"{directory}: has no checkpoint" + (" that is whole" + "".join(bad) if bad else "")
