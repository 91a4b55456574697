"""Where a run comes from: the code's commit and its uncommitted changes, versions, machine, command line."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = (
    "lmx",
    "jax",
    "jaxlib",
    "optax",
    "numpy",
    "grain",
    "orbax-checkpoint",
    "hydra-core",
    "omegaconf",
    "pydantic",
    "tiktoken",
    "tokenizers",
    "libtpu",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
)
_SETTINGS = (
    "JAX_",
    "XLA_",
    "LIBTPU_",
    "LMX_",
    "TPU_",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MALLOC_",
    "LD_PRELOAD",
)
_COMPARED = ("lmx", "jax", "jaxlib", "numpy")
"""Packages that decide what a step computes."""
_LARGEST_DIFF = 10_000_000
_NAMED = 100


class Start(NamedTuple):
    """facts, as JSON; and for each checkout with changes, name -> its diff."""

    facts: dict[str, Any]
    diffs: dict[str, str]


def command_line() -> list[str]:
    """The command of this process as it can be typed again."""
    words = sys.orig_argv[1:]
    if words[:2] == ["-m", "lmx"]:
        return ["lmx", *words[2:]]
    if words and Path(words[0]).name == "lmx":
        return ["lmx", *words[1:]]
    return list(sys.orig_argv)


def describe_start() -> Start:
    """All that is known of this process and the code that it runs."""
    package = Path(__file__).resolve().parents[1]
    code: dict[str, dict[str, Any]] = {}
    diffs: dict[str, str] = {}
    seen: set[str | None] = {None}
    for name, folder, member in (("lmx", package, package / "__init__.py"), ("here", Path.cwd(), None)):
        root = _root(folder, member)
        if name == "lmx" or root not in seen:
            code[name], diff = git_state(root)
            if diff:
                diffs[name] = diff
        seen.add(root)
    facts = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command_line(),
        "directory": str(Path.cwd()),
        "code": code,
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "machine": {
            "host": platform.node(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "process": os.getpid(),
        },
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_SETTINGS)},
    }
    return Start(facts, diffs)


def changed_versions(before: Mapping[str, Any]) -> str | None:
    """What has another version here than at an earlier start of the run (an entry of provenance.json), in words."""
    then = {**before.get("packages", {}), "Python": before.get("python")}
    now = {**{name: _version(name) for name in _COMPARED}, "Python": platform.python_version()}
    words = [
        f"{name} {now[name]}, {then[name]} then" for name in now if then.get(name) not in (None, now[name])
    ]
    if not words:
        return None
    host = before.get("machine", {}).get("host", "another host")
    return (
        f"other versions on {platform.node()} than at the last start, on {host}: {'; '.join(words)}. What follows may "
        "differ from what those would have computed"
    )


def _git(folder: str | Path, *words: str) -> str | None:
    """git's answer, or None without git, outside a checkout, or when it takes too long."""
    command = ["git", "--no-optional-locks", *words]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _root(folder: Path, member: Path | None) -> str | None:
    """The checkout that holds `folder`; None where there is none, or where it does not track `member`.

    A checkout that merely contains an installed copy (in a virtual environment) says nothing about lmx.
    """
    if member is not None and _git(folder, "ls-files", "--error-unmatch", str(member)) is None:
        return None
    found = _git(folder, "rev-parse", "--show-toplevel")
    return found.strip() if found else None


def git_state(root: str | None) -> tuple[dict[str, Any], str]:
    """commit, branch, dirty, untracked files of a checkout (nulls without one); the diff to its commit."""
    commit = _git(root, "rev-parse", "HEAD") if root else None
    if root is None or commit is None:
        return {"commit": None, "dirty": None}, ""
    diff = _git(root, "diff", "HEAD") or ""
    untracked = (_git(root, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    branch = (_git(root, "rev-parse", "--abbrev-ref", "HEAD") or "").strip()
    state = {
        "commit": commit.strip(),
        "branch": branch,
        "dirty": bool(diff or untracked),
        "untracked": untracked[:_NAMED],
        "root": root,
    }
    if len(diff) > _LARGEST_DIFF:
        state["diff"] = f"not kept: {len(diff)} characters"
        diff = ""
    return state, diff


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
