"""`lmx.json` of a checkpoint: what is in it, and a checksum of every file. Written last, it marks it as whole.

Orbax loads array data with flipped bytes without a word, and takes any folder with a number for a name to be a
checkpoint. Here a checkpoint is a folder whose manifest is sound and whose files are those that it lists.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.foreign import is_inside, quoted
from lmx.io.files import map_files, read_json, sha256, to_json, to_plain, write_atomic
from lmx.io.lines import is_count, misfit

NAME = "lmx.json"
FORMAT = 1


class Leaf(NamedTuple):
    """Shape and dtype of one array."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    @classmethod
    def parse(cls, text: str) -> Leaf:
        """The leaf that `str` wrote: `float32[2,3]`; ValueError for another text."""
        if _LEAF.fullmatch(text) is None:
            raise ValueError(f"{text!r} is no shape with a dtype")
        dtype, _, shape = text.removesuffix("]").partition("[")
        return cls(tuple(int(n) for n in shape.split(",") if n), dtype)


_LEAF = re.compile(r"[a-z0-9_]{1,40}(<[a-z0-9_]{1,20}>)?\[([0-9]{1,15}(,[0-9]{1,15}){0,31})?\]")


class Manifest(NamedTuple):
    """What a checkpoint says of itself.

    step     updates done
    meta     what the run wanted to remember: seed, data position, configuration hash, ...
    metrics  evaluation results at that step
    leaves   name -> Leaf, in tree order
    files    path inside the checkpoint -> (bytes, sha256)
    best     the metric that says which checkpoint is best, and `lowest` or `highest`
    """

    step: int
    meta: dict[str, Any]
    metrics: dict[str, Any]
    leaves: dict[str, Leaf]
    files: dict[str, tuple[int, str]]
    best: tuple[str, str]


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(content, sort_keys=True).encode()).hexdigest()


def list_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Relative path -> (bytes, sha256) of every file under `folder` but the manifest."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / NAME)
    digests = map_files(sha256, paths)
    return {
        p.relative_to(folder).as_posix(): (p.stat().st_size, d) for p, d in zip(paths, digests, strict=True)
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `lmx.json` in `folder`, synced to disk."""
    content = to_plain(
        {
            "format": FORMAT,
            "step": manifest.step,
            "best": list(manifest.best),
            "metrics": manifest.metrics,
            "meta": manifest.meta,
            "leaves": {name: str(leaf) for name, leaf in manifest.leaves.items()},
            "files": {name: list(entry) for name, entry in manifest.files.items()},
        }
    )
    write_atomic(folder / NAME, to_json({"digest": _digest(content), **content}, indent=1), sync=True)


def read_manifest(folder: Path) -> Manifest | str:
    """The manifest of a checkpoint, or what is wrong with it."""
    path = folder / NAME
    if not path.is_file():
        return f"{NAME} is missing: it was never finished, or copied in part"
    return parse_manifest(read_json(path))


def parse_manifest(content: Any) -> Manifest | str:
    """The manifest that the JSON of `lmx.json` says, or what is wrong with it."""
    if not isinstance(content, dict) or "digest" not in content:
        return f"{NAME} is damaged: not the JSON that was written"
    digest = content.pop("digest")
    try:
        same = digest == _digest(content)
    except (RecursionError, ValueError):
        same = False
    if not same:
        return f"{NAME} is damaged: its contents changed (sha256)"
    if content.get("format") != FORMAT:
        return f"{NAME} has format {quoted(content.get('format'))}; this version reads format {FORMAT}"
    if wrong := misfit(content, _SHAPE):
        return f"{NAME} is not what lmx writes: {wrong}"
    return Manifest(
        step=content["step"],
        meta=content["meta"],
        metrics=content["metrics"],
        leaves={name: Leaf.parse(text) for name, text in content["leaves"].items()},
        files={name: (size, digest) for name, (size, digest) in content["files"].items()},
        best=(content["best"][0], content["best"][1]),
    )


def _is_leaf(value: Any) -> bool:
    return isinstance(value, str) and _LEAF.fullmatch(value) is not None


def _is_file(name: str, entry: Any) -> bool:
    """Whether an entry names a file in the checkpoint, and its size and sha256."""
    known = isinstance(entry, list) and len(entry) == 2 and is_count(entry[0])
    return is_inside(name) and known and isinstance(entry[1], str)


_SHAPE = {
    "step": is_count,
    "meta": lambda value: isinstance(value, dict),
    "metrics": lambda value: isinstance(value, dict),
    "leaves": lambda value: isinstance(value, dict) and all(map(_is_leaf, value.values())),
    "files": lambda value: isinstance(value, dict) and all(_is_file(*item) for item in value.items()),
    "best": lambda value: (
        isinstance(value, list) and len(value) == 2 and all(isinstance(n, str) for n in value)
    ),
}


def damages(folder: Path, manifest: Manifest, *, contents: bool) -> list[str]:
    """What is wrong with the files that a manifest lists, each in a sentence that names the file.

    Sizes are compared always, every byte (sha256) with `contents`.
    """
    found: list[str] = []
    whole: list[str] = []
    for name, (size, _) in manifest.files.items():
        path = folder / name
        try:
            actual = path.stat().st_size
        except OSError:
            found.append(f"{name} is missing")
            continue
        if actual != size:
            found.append(f"{name} has {actual} bytes instead of {size}")
        else:
            whole.append(name)
    if contents:
        problems = map_files(lambda path: _compare(path, folder, manifest), [folder / name for name in whole])
        found += [f"{name} {problem}" for name, problem in zip(whole, problems, strict=True) if problem]
    return found


def _compare(path: Path, folder: Path, manifest: Manifest) -> str | None:
    try:
        digest = sha256(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    expected = manifest.files[path.relative_to(folder).as_posix()][1]
    return None if digest == expected else "changed after it was written (sha256)"
