"""The processes of `lmx verify mesh`: rows of one process share it, rows of several get their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import FAILED
from lmx.run.verify_progress import Progress


class Run(NamedTuple):
    """One run: its configuration, the folder that it is recorded in, and how (see `lmx.run.verify_child.Row`)."""

    name: str
    tree: dict[str, Any]
    folder: Path
    processes: int
    twin: bool = False
    trace: int | None = None


class Failure(NamedTuple):
    """Why a run was not completed, and the exit code of that."""

    message: str
    exit_code: int


def run_all(
    runs: list[Run], *, steps: int, devices: int, timeout: int, say: Callable[[str], None]
) -> dict[Path, Failure]:
    """Runs all, and says how far it is; folder -> failure of those that were not completed."""
    progress = Progress(len(runs), say)
    failed: dict[Path, Failure] = {}
    together = [run for run in runs if run.processes == 1]
    while together:
        _start(together, steps, devices, timeout, progress)
        done = [run for run in together if _ended(run.folder)]
        for run in done:
            _note(run, failed)
        rest = together[len(done) :]
        if rest:  # the process died in the next one
            failed[rest[0].folder] = _died(together[0].folder, processes=1, timeout=timeout)
        together = rest[1:]
    for run in runs:
        if run.processes > 1:
            _start([run], steps, devices, timeout, progress)
            if _ended(run.folder):
                _note(run, failed)
            else:
                failed[run.folder] = _died(run.folder, processes=run.processes, timeout=timeout)
    return failed


def _ended(folder: Path) -> bool:
    return (folder / "meta.json").exists() or (folder / "error.json").exists()


def _note(run: Run, failed: dict[Path, Failure]) -> None:
    error = run.folder / "error.json"
    if error.exists():
        failed[run.folder] = Failure(**json.loads(error.read_text()))


def _died(folder: Path, *, processes: int, timeout: int) -> Failure:
    """What a process that ended without a word last said."""
    for path in (folder / f"stderr_{i}.txt" for i in range(processes)):
        text = path.read_text(errors="replace") if path.exists() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines:
            return Failure(f"its process died: {lines[-1]}", FAILED)
    return Failure(f"its process died, or took longer than verify.timeout={timeout} s", FAILED)


def _start(runs: list[Run], steps: int, devices: int, timeout: int, progress: Progress) -> None:
    """Runs rows in one job of as many processes as the first has, to its end; a row that takes too long ends it."""
    processes = runs[0].processes
    rows = [{"tree": r.tree, "folder": str(r.folder), "twin": r.twin, "trace": r.trace} for r in runs]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"rows": rows, "steps": steps, "devices": devices // processes, "processes": processes}
    runs[0].folder.mkdir(parents=True, exist_ok=True)
    children = []
    for i in range(processes):
        path = runs[0].folder / f"job_{i}.json"
        path.write_text(json.dumps({**common, "process": i, "coordinator": f"127.0.0.1:{port}"}))
        with open(runs[0].folder / f"stderr_{i}.txt", "wb") as stderr:
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "lmx.run.verify_child", str(path)],
                    env=_environment(),
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                )
            )
    try:
        _wait(children, runs, timeout, progress)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()


def _wait(children: list[subprocess.Popen], runs: list[Run], timeout: int, progress: Progress) -> None:
    """Until the processes end, one of several fails, or a row takes longer than `timeout` seconds."""
    told, began = 0, time.monotonic()
    while True:
        ended = all(child.poll() is not None for child in children)
        while told < len(runs) and _ended(runs[told].folder):
            progress.ended(runs[told].name, time.monotonic() - began)
            told, began = told + 1, time.monotonic()
        if ended or time.monotonic() - began > timeout:
            return
        if len(children) > 1 and any(child.poll() not in (None, 0) for child in children):
            return
        time.sleep(0.1)


def _environment() -> dict[str, str]:
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in f]
    # On a machine with fewer cores than virtual devices some wait long for the others. Level 0: what is compiled runs
    # for a moment only.
    flags += [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120",
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    ]
    found = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}
    found.pop("JAX_NUM_CPU_DEVICES", None)
    found["PYTHONPATH"] = os.pathsep.join(path for path in [*sys.path, os.getcwd()] if path)
    return found
