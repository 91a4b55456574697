"""What each fault of `lmx.faults.config` does, as an observer of the run. The classes have the names of theirs."""

from __future__ import annotations

import fnmatch
import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from lmx.faults.config import RECORD, Site
from lmx.faults.read_only import locked
from lmx.io.lines import read_lines
from lmx.train.observe import Moment, Observer, Phase
from lmx.types import Batch

SUFFIX = ".before-fault"


def staged(run: Path) -> list[dict[str, Any]]:
    """The faults that were staged in a run's directory."""
    return read_lines(run / RECORD).sound()


class Staged(Observer):
    """A fault that is armed until it has happened; `armed` says whether it can on this process."""

    def __init__(self, config: Any, site: Site) -> None:
        self.config, self.site = config, site
        before = any(entry["process"] == site.process for entry in staged(site.run))
        self.armed = config.process in (None, site.process) and not before

    def happen(self, step: int) -> None:
        """Writes it down, for this start and those to come."""
        self.armed = False
        name = type(self.config).__name__
        line = json.dumps({"fault": name, "step": step, "process": self.site.process})
        handle = os.open(self.site.run / RECORD, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.write(handle, line.encode() + b"\n")
        os.fsync(handle)
        os.close(handle)
        print(f"lmx: fault {name} at step {step}, process {self.site.process}", file=sys.stderr, flush=True)

    def due(self, step: int) -> bool:
        """Whether it happens at this step."""
        return self.armed and step >= self.config.step


def die() -> None:
    """Ends this process as a lost host ends."""
    os.kill(os.getpid(), signal.SIGKILL)


class AtStep(Staged):
    """A fault that happens when the training thread comes to its step."""

    @override
    def begin(self, phase: Phase, step: int) -> None:
        if phase == "step" and self.due(step):
            self.happen(step)
            self.act(step)

    def act(self, step: int) -> None:
        """Does it."""
        raise NotImplementedError


class KillHost(AtStep):
    """See the configuration."""

    @override
    def act(self, step: int) -> None:
        die()


class HangHost(AtStep):
    """See the configuration."""

    @override
    def act(self, step: int) -> None:
        while True:
            time.sleep(3600)


class Sigterm(AtStep):
    """See the configuration."""

    @override
    def act(self, step: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class ClockSkew(AtStep):
    """See the configuration. What Python's `time.time` says is changed, in this process."""

    @override
    def act(self, step: int) -> None:
        by, wall, wall_ns = self.config.by, time.time, time.time_ns
        time.time = lambda: wall() + by
        time.time_ns = lambda: wall_ns() + int(by * 1e9)


class BadShard(AtStep):
    """See the configuration."""

    @override
    def act(self, step: int) -> None:
        path = data_file(self.site.data)
        kept = path.with_name(path.name + SUFFIX)
        if self.config.damage == "vanished":
            os.rename(path, kept)
        else:
            shutil.copy2(path, kept)
            os.truncate(path, path.stat().st_size // 2)


def data_file(data: Path | None) -> Path:
    """The largest file of the data; ValueError where it has none on disk."""
    files = [] if data is None else [data] if data.is_file() else [p for p in data.rglob("*") if p.is_file()]
    if not files:
        raise ValueError("fault=bad_shard needs data with files of its own: set data.path")
    return max(files, key=lambda p: (p.stat().st_size, p.name))


def repair(data: Path) -> None:
    """Puts back what BadShard kept."""
    for kept in list(data.rglob(f"*{SUFFIX}")):
        os.replace(kept, kept.with_name(kept.name.removesuffix(SUFFIX)))


class SlowHost(Staged):
    """See the configuration."""

    @override
    def begin(self, phase: Phase, step: int) -> None:
        if phase != "step":
            return
        if self.due(step):
            self.happen(step)
            self.until = step + self.config.steps
        if step < getattr(self, "until", 0):
            time.sleep(self.config.delay)


class KillDuringSave(Staged):
    """See the configuration."""

    @override
    def checkpoint(self, moment: Moment, step: int) -> None:
        if moment == "written" and self.due(step):
            self.happen(step)
            die()


class TornCheckpoint(Staged):
    """See the configuration."""

    @override
    def checkpoint(self, moment: Moment, step: int) -> None:
        if moment != "saved" or not self.due(step):
            return
        self.happen(step)
        tear(self.site.run / "checkpoints" / str(step), self.config.damage)
        die()


def tear(folder: Path, damage: str) -> None:
    """Damages the largest file of a checkpoint."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: (p.stat().st_size, p.name))
    if damage == "missing_file":
        path.unlink()
    elif damage == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        with open(path, "r+b") as file:
            file.seek(path.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))


class OfBatches(Staged):
    """A fault of some batches, from that of its step on; a run that goes back reads the rest of them."""

    left = 0

    @override
    def batch(self, step: int, batch: Batch) -> Batch:
        if self.due(step):
            self.happen(step)
            self.left = self.config.steps
        if not self.left:
            return batch
        self.left -= 1
        return self.spoil(batch)

    def spoil(self, batch: Batch) -> Batch:
        """The batch that is trained on instead."""
        raise NotImplementedError


class Nan(OfBatches):
    """See the configuration."""

    @override
    def spoil(self, batch: Batch) -> Batch:
        return batch._replace(weights=np.full_like(batch.weights, np.nan))


class LossSpike(OfBatches):
    """See the configuration."""

    @override
    def spoil(self, batch: Batch) -> Batch:
        shuffled = np.random.default_rng(0).permutation(np.asarray(batch.targets).ravel())
        return batch._replace(targets=shuffled.reshape(batch.targets.shape))


class DiskFull(Staged):
    """See the configuration."""

    before: tuple[int, int] | None = None

    @override
    def begin(self, phase: Phase, step: int) -> None:
        if phase == "save" and self.due(step):
            self.happen(step)
            self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.config.bytes, self.before[1]))

    @override
    def checkpoint(self, moment: Moment, step: int) -> None:
        if moment != "written" and self.before is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, self.before)
            self.before = None


class ReadOnlyDisk(Staged):
    """See the configuration."""

    held: Any = None

    @override
    def begin(self, phase: Phase, step: int) -> None:
        if phase == "save" and self.due(step):
            self.happen(step)
            folder = self.site.run / "checkpoints"
            folder.mkdir(exist_ok=True)
            self.held = locked(folder)
            self.held.__enter__()

    @override
    def checkpoint(self, moment: Moment, step: int) -> None:
        if moment != "written" and self.held is not None:
            self.held, held = None, self.held
            held.__exit__(None, None, None)


class SlowStorage(Staged):
    """See the configuration."""

    @override
    def begin(self, phase: Phase, step: int) -> None:
        if phase == "restore" and self.config.process in (None, self.site.process):
            time.sleep(self.config.delay)

    @override
    def checkpoint(self, moment: Moment, step: int) -> None:
        if moment == "written" and step >= self.config.step:
            if self.armed:
                self.happen(step)
            time.sleep(self.config.delay)


class BitFlip(Staged):
    """See the configuration. It is the highest bit of the mantissa of the first number that the device holds."""

    @override
    def copied(self, step: int, where: str, name: str, parts: list[Any]) -> list[Any]:
        config = self.config
        if where != config.where or not self.due(step) or not fnmatch.fnmatch(name, config.path):
            return parts
        self.happen(step)
        own = sorted((part.device for part in parts), key=lambda device: device.id)
        hit = own[config.device % len(own)]
        return [flipped(part) if part.device == hit else part for part in parts]


def flipped(part: Any) -> Any:
    """An array on one device with a bit of its first number flipped."""
    import jax

    found = np.array(part)
    words = found.reshape(-1).view(f"uint{8 * found.dtype.itemsize}")
    words[0] ^= 1 << (8 * found.dtype.itemsize - 10)
    return jax.device_put(found, part.device)
