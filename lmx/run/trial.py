"""A run of `lmx train` under trial: its processes, what they witness, their end, and their going on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lmx.faults.config import RECORD
from lmx.io.files import read_json
from lmx.io.lines import read_lines
from lmx.run.same_run import last_checkpoint
from lmx.run.witness import WITNESS

POLL_S = 0.001


class Ended(NamedTuple):
    """How the processes of a start ended.

    codes    of each process; negative: the signal that killed it
    words    the last lines that each wrote to stderr
    seconds  from the first process's end to the last one's; infinite where they had to be killed
    """

    codes: list[int]
    words: list[str]
    seconds: float


class Trial:
    """One run: started, watched, killed and resumed, always by the command that a person would use."""

    def __init__(self, tree: dict[str, Any], run: Path, *, devices: int, timeout: float) -> None:
        """`tree`: the configuration, as `TrainConfig` reads it; `devices`: virtual ones, of all processes."""
        self.run, self.devices, self.timeout = run, devices, timeout
        self.tree = tree
        self.starts = 0
        self.children: list[subprocess.Popen] = []
        self.began = 0.0

    def start(self, processes: int, overrides: Sequence[str] = ()) -> None:
        """Begins the run, or goes on with it where something was saved, with `overrides` then."""
        if last_checkpoint(self.run) is None:
            self._clear()
            config = self.run.with_name(f"{self.run.name}.yaml")
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_text(json.dumps(self.tree))  # JSON is YAML
            words = ["--frozen", str(config), f"hydra.run.dir={self.run}"]
        else:
            words = [f"resume={self.run}", *overrides]
        self.starts += 1
        self.witness.mkdir(parents=True)
        environments = self._environments(processes)
        self.began = time.monotonic()
        self.children = []
        for i, environment in enumerate(environments):
            with open(self.witness / f"stderr-{i}.txt", "wb") as stderr:
                self.children.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "lmx", "train", *words],
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=stderr,
                    )
                )

    def _clear(self) -> None:
        """A run that saved nothing begins anew; what it read, and which faults it has had, stays known."""
        for path in self.run.glob("*"):
            if not path.name.startswith("witness-") and path.name != RECORD:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @property
    def witness(self) -> Path:
        """Where the newest start is witnessed."""
        return self.run / f"witness-{self.starts:03d}"

    def _environments(self, processes: int) -> list[dict[str, str]]:
        flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
        common = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_"))},
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(self.devices // processes),
            "XLA_FLAGS": " ".join(flags),
            "PYTHONPATH": os.pathsep.join(path for path in [*sys.path, os.getcwd()] if path),
            WITNESS: str(self.witness),
        }
        if processes == 1:
            return [common]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        hosts = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(processes)}
        return [{**common, **hosts, "JAX_PROCESS_ID": str(i)} for i in range(processes)]

    # ---- watching

    def seen(self, process: int = 0) -> list[dict[str, Any]]:
        """What a process has witnessed since the newest start."""
        return read_lines(self.witness / f"{process}.jsonl").sound()

    def alive(self) -> bool:
        """Whether all processes are."""
        return all(child.poll() is None for child in self.children)

    def done(self) -> bool:
        """Whether the run has come to its end: nothing is left to go on with, even if a process was killed then."""
        return (read_json(self.run / "summary.json") or {}).get("status") == "done"

    def wait_for(self, happened: Callable[[], bool]) -> bool:
        """Until that happened (true), or some process ended, or the time is up."""
        with self._leaving_none():
            while self.alive() and time.monotonic() - self.began < self.timeout:
                if happened():
                    return True
                time.sleep(POLL_S)
        return False

    # ---- ends

    def signal(self, which: Sequence[int], number: int = signal.SIGKILL) -> None:
        """A signal to some of the processes."""
        for i in which:
            if self.children[i].poll() is None:
                self.children[i].send_signal(number)

    def wait(self, timeout: float | None = None) -> Ended:
        """Until all processes ended; those that have not after `timeout` seconds (None: the trial's) are killed."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        first: float | None = None
        hung = False
        with self._leaving_none():
            while any(child.poll() is None for child in self.children):
                if first is None and not self.alive():
                    first = time.monotonic()
                if time.monotonic() > deadline:
                    hung = True
                    self.signal(range(len(self.children)))
                time.sleep(0.005)
        seconds = 0.0 if first is None else time.monotonic() - first
        words = [self._words(i) for i in range(len(self.children))]
        return Ended([c.wait() for c in self.children], words, float("inf") if hung else seconds)

    def _words(self, process: int) -> str:
        text = (self.witness / f"stderr-{process}.txt").read_text(errors="replace")
        return "\n".join(line.strip() for line in text.splitlines() if line.strip())

    @contextmanager
    def _leaving_none(self) -> Iterator[None]:
        """Whatever ends the watching ends the processes too."""
        try:
            yield
        except BaseException:
            self.signal(range(len(self.children)))
            for child in self.children:
                child.wait()
            raise
