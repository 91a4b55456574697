"""The run directory: made by one run alone, locked while in use, everything in it written whole or not at all.

config.yaml       the resolved configuration; `resume=` needs nothing else
overrides.yaml    the command line that made it
provenance.json   commit, diff, versions, devices, seed, configuration hash
metrics.jsonl     a row a logged step
tensorboard/      the same for TensorBoard
checkpoints/      see lmx.io.checkpoints
log.txt           what was said
summary.json      status and results
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from lmx.config.errors import RequestError

_PACKAGES = (
    "jax",
    "jaxlib",
    "optax",
    "numpy",
    "grain",
    "orbax-checkpoint",
    "hydra-core",
    "omegaconf",
    "tiktoken",
)


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path` in one step: a reader sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def plain_json(value: Any) -> Any:
    """`value` with infinities and NaN as the strings "inf", "-inf", "nan", so that the JSON is valid."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return value


class RunDir:
    """An open run directory. It is locked until this process ends or `close` is called."""

    def __init__(self, path: Path, lock: Any) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, path: Path) -> RunDir:
        """A new run's directory; RequestError when a run is there already, or another process makes one now."""
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        if (path / "config.yaml").exists():
            raise RequestError(
                f"hydra.run.dir={path}: holds a run already; go on with it by resume={path}, or name another folder"
            )
        return cls(path, lock)

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """The directory of a run to go on with; RequestError when there is none, or it is in use."""
        if not (path / "config.yaml").is_file():
            raise RequestError(f"resume={path}: is not a run directory (it has no config.yaml)")
        return cls(path, _lock(path))

    def close(self) -> None:
        """Gives the lock back."""
        self._lock.close()

    def write_config(self, tree: dict[str, Any], overrides: list[str]) -> None:
        """config.yaml and overrides.yaml. A resumed run's new configuration replaces the old, which is kept."""
        path = self.path / "config.yaml"
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            n = len(list(self.path.glob("config.before-resume-*.yaml"))) + 1
            path.rename(self.path / f"config.before-resume-{n}.yaml")
        record = self.path / "overrides.yaml"
        earlier = yaml.safe_load(record.read_text(encoding="utf-8")) if record.exists() else []
        write_atomically(record, yaml.safe_dump([*(earlier or []), *overrides], allow_unicode=True))
        write_atomically(path, text)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """summary.json."""
        write_atomically(self.path / "summary.json", json.dumps(plain_json(summary), indent=2) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """summary.json, or {}."""
        path = self.path / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def write_provenance(self, *, config_hash: str, seed: int, devices: list[str], hosts: int) -> None:
        """provenance.json, one entry a start of the run, and the uncommitted changes as a patch file."""
        path = self.path / "provenance.json"
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.exists() else []
        code, diff = _git_state(Path(__file__).parent)
        if diff:
            name = f"uncommitted-{len(starts)}.patch"
            write_atomically(self.path / name, diff)
            code["diff"] = name
        starts.append(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": sys.argv,
                "code": code,
                "packages": {name: _version(name) for name in _PACKAGES},
                "python": platform.python_version(),
                "host": platform.node(),
                "hosts": hosts,
                "devices": devices,
                "seed": seed,
                "config_hash": config_hash,
            }
        )
        write_atomically(path, json.dumps({"starts": starts}, indent=2) + "\n")

    def cut_metrics(self, step: int) -> None:
        """Removes rows of metrics.jsonl after `step`: a resumed run writes them again."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break  # the last row of a run that was killed while writing it
            if row["step"] <= step:
                kept.append(line)
        write_atomically(path, "".join(kept))


def _lock(path: Path) -> Any:
    handle = (path / "lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        holder = handle.read().strip() or "unknown"
        handle.close()
        raise RequestError(f"{path}: this run directory is in use by process {holder}") from None
    handle.seek(0)
    handle.truncate()
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> tuple[dict[str, Any], str]:
    """{"commit": ..., "dirty": ...} of the checkout that holds `folder` (nulls outside one), and its diff."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    # A checkout that merely contains an installed copy (a virtual environment) says nothing about lmx.
    tracked = git("ls-files", "--error-unmatch", __file__)
    commit = git("rev-parse", "HEAD") if tracked is not None else None
    if commit is None:
        return {"commit": None, "dirty": None}, ""
    diff = git("diff", "HEAD") or ""
    return {"commit": commit.strip(), "dirty": bool(diff)}, diff
