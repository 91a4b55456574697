"""Files that paths, globs and directories name. Needs nothing but the standard library."""

from __future__ import annotations

import difflib
import glob
import itertools
import os
from collections.abc import Iterator, Sequence

TRAINED = "about.json"
"""What `lmx tokenizer train` writes last in its directory."""


def find_files(
    patterns: str | Sequence[str], *, key: str, suffixes: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[str, ...]:
    """Files that paths, globs and directories name, each once, sorted; ValueError when there are none.

    Directories are walked for files that end in one of `suffixes`; `exclude` names are left out of the walk.
    """
    found: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        root = os.path.expanduser(pattern)
        matches = sorted(_matches(pattern, suffixes, exclude))
        if os.path.isdir(root):
            matches.sort(key=lambda path: os.path.relpath(path, root).split(os.sep))
        if not matches:
            raise ValueError(f"{key}={pattern} {_absent(pattern, suffixes)}")
        found.update(dict.fromkeys(matches))
    return tuple(found)


def fault_of(patterns: str | Sequence[str], suffixes: Sequence[str] = ()) -> tuple[str, str | None] | None:
    """What is wrong with the first of the paths that names nothing to read, and a path probably meant.

    Stops at the first file with something in it, so that large directories cost nothing.
    """
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = _matches(pattern, suffixes, ())
        first = next(matches, None)
        if first is None:
            return f"{pattern or repr(pattern)} {_absent(pattern, suffixes)}", _near(pattern)
        if not os.access(first, os.R_OK):
            return f"{first} cannot be read: its permissions do not allow it", None
        if not any(os.path.getsize(path) for path in itertools.chain([first], matches)):
            what = pattern if first == os.path.expanduser(pattern) else f"every file of {pattern}"
            return f"{what} is empty", None
    return None


def size_of(patterns: str | Sequence[str], suffix: str) -> int:
    """Bytes of all files that paths, globs and directories name; 0 where there are none here."""
    paths = [patterns] if isinstance(patterns, str) else patterns
    return sum(os.path.getsize(file) for path in paths for file in _matches(path, [suffix], ()))


def _matches(pattern: str, suffixes: Sequence[str], exclude: Sequence[str]) -> Iterator[str]:
    expanded = os.path.expanduser(pattern)
    if os.path.isdir(expanded):
        left_out = set(exclude)
        for directory, names, files in os.walk(expanded):
            names[:] = [name for name in names if name not in left_out]
            for name in files:
                if name not in left_out and name.endswith(tuple(suffixes)):
                    yield os.path.join(directory, name)
    elif os.path.exists(expanded):
        yield expanded
    else:
        yield from (path for path in glob.iglob(expanded, recursive=True) if os.path.isfile(path))


def _absent(pattern: str, suffixes: Sequence[str]) -> str:
    if os.path.isdir(os.path.expanduser(pattern)):
        return (
            f"is a directory without files that end in {', '.join(suffixes)}; give a glob, such as 'DIR/**/*'"
        )
    return "does not exist (no such file, directory, or match of a glob)"


def _near(pattern: str) -> str | None:
    """A path beside it whose name is like its own."""
    folder, name = os.path.split(pattern)
    try:
        names = os.listdir(os.path.expanduser(folder) or ".")
    except OSError:
        return None
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    return os.path.join(folder, close[0]) if close and close[0] != name else None
