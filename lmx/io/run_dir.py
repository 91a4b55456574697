"""The run directory: made by one run alone, locked while in use, each file written whole or not at all.

config.yaml       the resolved configuration; `resume=` needs nothing else
overrides.yaml    the command line that made it
provenance.json   an entry a start: commit, versions, devices, seed, configuration hash, command
metrics.jsonl     a row a logged step
tensorboard/      the same for TensorBoard
checkpoints/      see lmx.io.checkpoints
log.txt           what was said
summary.json      status and results
lock              held while a process works here
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import threading
import time
from pathlib import Path
from typing import IO, Any

import yaml

from lmx.config.errors import RequestError
from lmx.config.foreign import parse_json
from lmx.io.files import read_json, to_json, write_atomic
from lmx.io.provenance import Start, describe_start

log = logging.getLogger("lmx")

IN_USE = "this run directory is in use by"
_MARKS = ("config.yaml", "metrics.jsonl", "summary.json", "checkpoints")
"""What only a run leaves in a folder; Hydra may have made the folder itself before."""


class RunDir:
    """An open run directory. It is locked until this process ends or `close` is called.

    In a job of several processes only the primary one locks and writes; in the others every method that
    writes does nothing.
    """

    def __init__(self, path: Path, lock: IO[str] | None) -> None:
        self.path = path
        self._lock = lock
        self._writing: list[threading.Thread] = []

    @classmethod
    def create(cls, path: Path, *, primary: bool = True) -> RunDir:
        """A new run's directory; RequestError where a run is, or where another process makes one now."""
        if not primary:
            return cls(path, None)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RequestError(
                f"hydra.run.dir={path}: there is a file of this name; name another folder"
            ) from None
        lock = _lock(path)
        if any((path / mark).exists() for mark in _MARKS):
            lock.close()
            raise RequestError(
                f"hydra.run.dir={path}: this folder holds a run already; "
                f"go on with it by resume={path}, or name another folder"
            )
        return cls(path, lock)

    @classmethod
    def open(cls, path: Path, *, primary: bool = True) -> RunDir:
        """The directory of a run to go on with; RequestError when there is none, or it is in use."""
        if not (path / "config.yaml").is_file():
            raise RequestError(f"resume={path}: this is not a run directory (it has no config.yaml)")
        return cls(path, _lock(path) if primary else None)

    @property
    def primary(self) -> bool:
        """Whether this process is the one that writes."""
        return self._lock is not None

    def close(self) -> None:
        """Finishes what is written in the background and gives the lock back."""
        for thread in self._writing:
            thread.join()
        self._writing.clear()
        if self._lock is not None and not self._lock.closed:
            self._lock.truncate(0)
            self._lock.close()

    def write_config(self, tree: dict[str, Any], overrides: list[str]) -> None:
        """config.yaml and overrides.yaml. A resumed run replaces the old configuration, kept beside."""
        if not self.primary:
            return
        path, lines = self.path / "config.yaml", self.path / "overrides.yaml"
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)
        earlier: list[str] = []
        if path.exists():
            old = path.read_text(encoding="utf-8")
            if old != text:
                n = len(list(self.path.glob("config.before-resume-*.yaml"))) + 1
                write_atomic(self.path / f"config.before-resume-{n}.yaml", old)
            if lines.exists():
                earlier = yaml.safe_load(lines.read_text(encoding="utf-8")) or []
        write_atomic(lines, yaml.safe_dump([*earlier, *overrides], allow_unicode=True, width=10_000))
        write_atomic(path, text)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """summary.json. A full disk is reported, not raised: the run itself is not at fault."""
        if not self.primary:
            return
        try:
            write_atomic(self.path / "summary.json", to_json(summary, indent=2) + "\n")
        except OSError as error:
            log.warning("%s was not written: %s", self.path / "summary.json", error.strerror)

    def read_summary(self) -> dict[str, Any]:
        """summary.json, or {}."""
        found = read_json(self.path / "summary.json")
        return found if isinstance(found, dict) else {}

    def write_provenance(self, *, config_hash: str, seed: int, devices: list[str], hosts: int) -> None:
        """provenance.json, one more entry a start of the run, and the uncommitted changes as a patch file.

        Asking git takes a while, so it is done in the background; `close` waits for it.
        """
        if not self.primary:
            return

        def write() -> None:
            path = self.path / "provenance.json"
            starts = (read_json(path) or {}).get("starts", [])
            start: Start = describe_start()
            entry = start.facts | {
                "devices": devices,
                "hosts": hosts,
                "seed": seed,
                "config_hash": config_hash,
            }
            try:
                for name, diff in start.diffs.items():
                    patch = f"uncommitted-{name}-{len(starts)}.patch"
                    write_atomic(self.path / patch, diff)
                    entry["code"][name]["diff"] = patch
                write_atomic(path, to_json({"starts": [*starts, entry]}, indent=2) + "\n")
            except OSError as error:
                log.warning("%s was not written: %s", path, error.strerror)

        thread = threading.Thread(target=write, name="provenance")
        thread.start()
        self._writing.append(thread)

    def cut_metrics(self, step: int) -> None:
        """Removes rows of metrics.jsonl after `step`, which a resumed run writes again.

        They are kept in metrics.cut.jsonl, with a row that a killed process left unfinished.
        """
        path = self.path / "metrics.jsonl"
        if not self.primary or not path.exists():
            return
        kept, cut = split_rows(path.read_text(encoding="utf-8", errors="replace"), step)
        if cut:
            with open(self.path / "metrics.cut.jsonl", "a", encoding="utf-8") as stream:
                stream.writelines(line.rstrip("\n") + "\n" for line in cut)
            write_atomic(path, "".join(kept), sync=True)


def split_rows(text: str, step: int) -> tuple[list[str], list[str]]:
    """Lines of metrics up to a step; and the others: later ones, unfinished ones, all that follow these."""
    kept: list[str] = []
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        try:
            after = parse_json(line)["step"] > step
        except (ValueError, KeyError, TypeError):
            after = True
        if after or not line.endswith("\n"):
            return kept, lines[number:]
        kept.append(line)
    return kept, []


def _lock(path: Path) -> IO[str]:
    handle = (path / "lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = _read_holder(handle)
        handle.close()
        raise RequestError(f"{path}: {IN_USE} {holder}") from None
    handle.seek(0)
    handle.truncate()
    handle.write(f"process {os.getpid()} on {platform.node()}")
    handle.flush()
    return handle


def _read_holder(handle: IO[str]) -> str:
    """What the holder wrote; it may have taken the lock a moment ago and be about to write."""
    for _ in range(20):
        handle.seek(0)
        if said := handle.read().strip():
            return said
        time.sleep(0.05)
    return "another process"


def holder(path: Path) -> str | None:
    """Who works in a run directory now, `process 123 on host`; None where nobody does. Changes nothing."""
    try:
        with open(path / "lock", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return _read_holder(handle)
    except OSError:
        pass
    return None
