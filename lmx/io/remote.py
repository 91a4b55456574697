"""The checkpoints of one run in a storage that outlives its host: an object store, or a disk elsewhere.

FOLDER/STEP/...                   the files of a checkpoint; `lmx.json` is written last and removed first, so that what
                                  has it is whole: stores have no rename
FOLDER/STEP/lmx.json.set-aside    of a checkpoint that the run did not go on from
FOLDER/run/...                    the small files of the run directory, as they were at the newest checkpoint
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lmx.config.errors import RequestError
from lmx.config.foreign import parse_json
from lmx.io.files import map_files, read_json, sync_directory, to_json, write_atomic
from lmx.io.manifest import NAME, Manifest, damages, parse_manifest

ASIDE = f"{NAME}.set-aside"
RUN_FILES = "run"
RECORD = "remote.json"
"""In a run directory: the name of its folder in the remote tier."""


def is_step(name: str) -> bool:
    """Whether a folder of this name can be a checkpoint."""
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def in_remote(run: Path) -> bool:
    """Whether a run directory says that checkpoints of it were sent to a remote tier."""
    return (run / RECORD).is_file()


def check(url: str) -> None:
    """RequestError where what reaches this storage is not installed; nothing is reached."""
    import fsspec

    try:
        fsspec.get_filesystem_class(fsspec.core.split_protocol(url)[0] or "file")
    except (ImportError, ValueError) as error:
        raise RequestError(
            f"checkpoint.remote.path={url} cannot be used: {error}\n    fix: pip install 'lmx[gcs]' (gs://) or "
            "'lmx[s3]' (s3://), or checkpoint.remote=null"
        ) from error


class Remote:
    """A folder of checkpoints, reached by fsspec. Whatever fails there raises what its file system raises."""

    def __init__(self, url: str) -> None:
        """`url`: gs://BUCKET/PATH, s3://BUCKET/PATH, file:///PATH, or a path. RequestError where it cannot be reached
        with what is installed.
        """
        import fsspec

        check(url)
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self.url = url
        self._known: dict[int, Manifest] = {}

    def names(self) -> list[str]:
        """What is in the folder; [] where there is none."""
        self._fs.invalidate_cache()
        try:
            entries = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(entry).name for entry in entries)

    def manifests(self) -> dict[int, Manifest]:
        """Step -> manifest of what is whole there, oldest first; bytes are not compared."""
        steps = sorted(int(name) for name in self.names() if is_step(name))
        found = {step: self._manifest(step) for step in steps}
        self._known = {step: manifest for step, manifest in found.items() if manifest is not None}
        return dict(self._known)

    def _manifest(self, step: int) -> Manifest | None:
        if step in self._known:
            return self._known[step]
        try:
            content = parse_json(self._fs.cat_file(self._path(step, NAME)))
        except (FileNotFoundError, ValueError):
            return None
        found = parse_manifest(content)
        return found if isinstance(found, Manifest) and found.step == step else None

    def _path(self, *parts: object) -> str:
        return "/".join([self._root.rstrip("/"), *map(str, parts)])

    # ---- there and back

    def send(self, folder: Path, manifest: Manifest) -> None:
        """Copies the checkpoint in `folder`; whole there once this returns. OSError where it is damaged here."""
        if found := damages(folder, manifest, contents=True):
            raise OSError(f"{folder} is damaged: {'; '.join(found)}")
        self._unmark(manifest.step)
        map_files(lambda path: self._put(path, folder, manifest), [folder / name for name in manifest.files])
        self._fs.put_file(str(folder / NAME), self._path(manifest.step, NAME))
        self._known[manifest.step] = manifest

    def _put(self, path: Path, folder: Path, manifest: Manifest) -> None:
        name = path.relative_to(folder).as_posix()
        there, size = self._path(manifest.step, name), manifest.files[name][0]
        self._fs.makedirs(there.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(path), there)
        if (arrived := self._fs.info(there)["size"]) != size:
            raise OSError(f"{there} has {arrived} bytes instead of {size}")

    def bring(self, step: int, to: Path) -> Manifest:
        """Copies a checkpoint into the folder `to`, `lmx.json` last; OSError where it is damaged."""
        manifest = self._manifest(step)
        if manifest is None:
            raise FileNotFoundError(f"{self.url} has no whole checkpoint of step {step}")
        for name in (*manifest.files, NAME):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
        map_files(
            lambda path: self._fs.get_file(self._path(step, path.relative_to(to).as_posix()), str(path)),
            [to / name for name in manifest.files],
        )
        if found := damages(to, manifest, contents=True):
            raise OSError(f"{self.url}/{step} is damaged: {'; '.join(found)}")
        self._fs.get_file(self._path(step, NAME), str(to / NAME))
        sync_directory(to)
        return manifest

    def keep(self, files: Sequence[Path]) -> None:
        """Copies small files of the run directory, as they are now."""
        self._fs.makedirs(self._path(RUN_FILES), exist_ok=True)
        for file in files:
            self._fs.pipe_file(self._path(RUN_FILES, file.name), file.read_bytes())

    # ---- away

    def remove(self, step: int) -> None:
        """Deletes a checkpoint: first it is none any more, then its files go."""
        self._unmark(step)
        self._fs.rm(self._path(step), recursive=True)

    def set_aside(self, step: int) -> None:
        """Takes the mark of a whole checkpoint away, and leaves its files."""
        content: Any = self._fs.cat_file(self._path(step, NAME))
        self._fs.pipe_file(self._path(step, ASIDE), content)
        self._unmark(step)

    def _unmark(self, step: int) -> None:
        self._known.pop(step, None)
        if self._fs.exists(self._path(step, NAME)):
            self._fs.rm_file(self._path(step, NAME))


def place_of(run: Path, path: str, *, resume: bool, say: Callable[[str], None]) -> str:
    """The folder of a run's checkpoints under the remote tier's `path`; RUN/remote.json remembers its name.

    A new run gets one that no run has had. A run that goes on without remote.json (on another host) is found by the
    name of its directory, and that is said; RequestError where several could be meant.
    """
    record = run / RECORD
    known = read_json(record) if resume else None
    if not isinstance(known, dict):
        name = _found(run, path, say) if resume else None
        known = {"name": name or f"{run.name}-{secrets.token_hex(4)}"}
        write_atomic(record, to_json(known) + "\n", sync=True)
    return f"{path.rstrip('/')}/{known['name']}"


def _found(run: Path, path: str, say: Callable[[str], None]) -> str | None:
    pattern = re.compile(re.escape(run.name) + "-[0-9a-f]{8}")
    try:
        names = [name for name in Remote(path).names() if pattern.fullmatch(name)]
    except OSError as error:
        raise RequestError(f"checkpoint.remote.path={path} cannot be read: {error}") from error
    if len(names) > 1:
        raise RequestError(
            f"resume={run}: {run / RECORD} is missing, and {path} has {', '.join(names)}; say which is its own by "
            f'{{"name": "{names[-1]}"}} in that file'
        )
    if names:
        say(
            f"{run / RECORD} was missing; {path}/{names[0]} bears the name of this run and is taken for its own"
        )
    return names[0] if names else None
