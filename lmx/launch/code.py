"""The code that a run is started with: a snapshot of the checkout, what is not committed included."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from lmx.config.errors import RequestError
from lmx.launch.host import missing_program


class Snapshot(NamedTuple):
    """What is sent.

    hash    git's hash of the tree of files: equal for equal contents
    commit  HEAD
    diff    from HEAD to the snapshot; empty where everything is committed
    has_lmx whether the checkout is lmx's own, so that hosts need lmx's packages alone
    """

    hash: str
    commit: str
    diff: str
    has_lmx: bool


def snapshot(folder: Path, archive: Path) -> Snapshot:
    """Writes the checkout that holds `folder` to the tar file `archive`: tracked files as they are now, and new ones.

    Files that git ignores are left out. Nothing in the checkout changes, its index included. RequestError outside a
    checkout, and where git cannot.
    """
    root = Path(_git(folder, {}, "rev-parse", "--show-toplevel").strip())
    commit = _git(root, {}, "rev-parse", "HEAD").strip()
    objects = _git(root, {}, "rev-parse", "--git-path", "objects").strip()
    with tempfile.TemporaryDirectory() as temporary:
        aside = {
            "GIT_INDEX_FILE": f"{temporary}/index",
            "GIT_OBJECT_DIRECTORY": temporary,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((root / objects).absolute()),
        }
        _git(root, aside, "read-tree", "HEAD")
        _git(root, aside, "add", "--all", ".")
        tree = _git(root, aside, "write-tree").strip()
        diff = _git(root, aside, "diff", "--binary", "HEAD", tree)
        _git(root, aside, "archive", "--format=tar", f"--output={archive.absolute()}", tree)
    return Snapshot(tree, commit, diff, (root / "lmx" / "__init__.py").is_file())


def _git(folder: Path, environment: dict[str, str], *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise RequestError(missing_program("git")) from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RequestError(
            f"target.code=snapshot: git {words[0]} failed in {folder}: {said[0] if said else done.returncode}; start "
            "in a git checkout with a commit, or set target.code=installed, or to a folder on the hosts"
        )
    return done.stdout
