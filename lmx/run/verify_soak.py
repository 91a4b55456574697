"""`lmx verify soak`: a long run in a process of its own, watched from outside. Nothing may grow, nothing slow down."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from lmx.config.component import Config, field
from lmx.config.compose import Composed
from lmx.config.errors import FAILED, LmxError
from lmx.config.types import Count, Duration, Fraction, PositiveReal
from lmx.io.records import read_metrics
from lmx.run.config import TrainConfig


class Soak(Config):
    """How long, and what counts as growth."""

    duration: Duration = field("how long is trained", unit="s", effect="bookkeeping")
    every: Duration = field("time between looks at the process", unit="s", effect="bookkeeping")
    settle: Fraction = field("part of the run, from its start, that is not judged", effect="bookkeeping")
    memory: Count = field("growth of resident memory that is allowed", unit="MiB", effect="bookkeeping")
    files: Count = field("growth of open files that is allowed", effect="bookkeeping")
    slower: PositiveReal = field(
        "growth of the median step time that is allowed, from the first tenth of the steps judged to the last",
        effect="bookkeeping",
    )


class VerifySoak(TrainConfig):
    """`lmx verify soak`: all that `lmx train` has, and how it is judged."""

    soak: Soak = field("how long, and what counts as growth", effect="bookkeeping")


class Grown(LmxError):
    """Something grew that should not, or the run failed."""

    exit_code = FAILED


class Look(NamedTuple):
    """The process at a time, seconds since its start: resident memory in bytes, open files, threads."""

    time: float
    memory: int
    files: int
    threads: int


def look_at(pid: int, began: float) -> Look | None:
    """None where the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    told = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "VmRSS" not in told:  # it has ended, and nobody has asked how
        return None
    memory = int(told["VmRSS"].split()[0]) * 1024
    return Look(time.monotonic() - began, memory, files, int(told["Threads"]))


def judge(looks: Sequence[Look], step_times: Sequence[float], soak: Soak) -> dict[str, Any]:
    """What grew, of what was seen after the run had settled; LmxError where too little was seen."""
    last = looks[-1].time if looks else 0.0
    seen = [one for one in looks if one.time >= soak.settle * last]
    steps = list(step_times)[int(soak.settle * len(step_times)) :]
    if len(seen) < 10 or len(steps) < 20:
        raise Grown(
            f"{len(seen)} looks and {len(steps)} steps after settling are too few to judge: set soak.duration longer, "
            "or soak.every and trainer.log_every shorter"
        )
    hours = np.array([one.time for one in seen]) / 3600
    memory = np.array([one.memory for one in seen]) / 2**20
    slope = float(np.polyfit(hours, memory, 1)[0])
    tenth = max(len(steps) // 10, 1)
    first, late = statistics.median(steps[:tenth]), statistics.median(steps[-tenth:])
    # What the line through all looks says that was added: a single look is as noisy as the allocator.
    growth = slope * float(hours[-1] - hours[0])
    # Of the usual look: one that falls into a save sees the files that it writes.
    usual = lambda some: round(statistics.median(one.files for one in some))
    files = usual(seen[-len(seen) // 10 :]) - usual(seen[: max(len(seen) // 10, 1)])
    wrong = []
    if growth > soak.memory:
        wrong.append(f"resident memory grew by {growth:.1f} MiB (allowed: {soak.memory})")
    if files > soak.files:
        wrong.append(f"{files} more open files (allowed: {soak.files})")
    if late > first * (1 + soak.slower):
        wrong.append(f"steps are {100 * (late / first - 1):.1f} % slower (allowed: {100 * soak.slower:g} %)")
    return {
        "seconds": round(last, 1),
        "steps": len(step_times),
        "memory_mib": round(float(memory[-1]), 1),
        "memory_course_mib": [
            round(float(m)) for m in memory[np.linspace(0, len(memory) - 1, 9).astype(int)]
        ],
        "memory_slope_mib_per_hour": round(slope, 2),
        "memory_growth_mib": round(growth, 2),
        "open_files": seen[-1].files,
        "open_files_growth": files,
        "threads": seen[-1].threads,
        "step_time_first": first,
        "step_time_last": late,
        "slower": round(late / first - 1, 4),
        "wrong": wrong,
    }


def verify_soak(composed: Composed[VerifySoak]) -> dict[str, Any]:
    """Trains for `soak.duration` and judges; `Grown` where the run itself fails."""
    soak = composed.config.soak
    with tempfile.TemporaryDirectory(prefix="lmx-soak-") as folder:
        run, config = Path(folder) / "run", Path(folder) / "config.yaml"
        tree = {key: value for key, value in composed.tree.items() if key != "soak"}
        tree["trainer"] = {**tree["trainer"], "steps": 10**8, "tokens": None, "epochs": None}
        tree["trainer"]["duration"] = soak.duration
        config.write_text(yaml.safe_dump(tree, sort_keys=False))
        words = ["train", "--frozen", str(config), f"hydra.run.dir={run}"]
        began, looks = time.monotonic(), []
        child = subprocess.Popen(
            [sys.executable, "-m", "lmx", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in [*sys.path, os.getcwd()] if path),
            },
        )
        try:
            while child.poll() is None:
                seen = look_at(child.pid, began)
                if seen is not None and (run / "metrics.jsonl").exists():
                    looks.append(seen)
                time.sleep(soak.every)
        finally:
            if child.poll() is None:
                child.terminate()
            _, said = child.communicate()
        if child.returncode:
            shutil.copyfile(config, Path.cwd() / "soak-failed.yaml")
            raise Grown(
                f"the run ended with exit code {child.returncode}; its configuration: soak-failed.yaml\n{said}"
            )
        times = [line["step_time"] for line in read_metrics(run) if line.get("step_time")]
        return judge(looks, times, soak)


def as_text(result: dict[str, Any]) -> str:
    """In words."""
    verdict = "nothing grew" if not result["wrong"] else "GREW: " + "; ".join(result["wrong"])
    return "\n".join(
        [
            f"{result['seconds']:.0f} s, {result['steps']} rows of metrics",
            f"resident memory {result['memory_mib']:.0f} MiB, {result['memory_slope_mib_per_hour']:+.1f} MiB an hour "
            f"(at every eighth of what is judged: {', '.join(map(str, result['memory_course_mib']))})",
            f"open files {result['open_files']} ({result['open_files_growth']:+d}), threads {result['threads']}",
            f"step {1e3 * result['step_time_first']:.1f} ms -> {1e3 * result['step_time_last']:.1f} ms "
            f"({100 * result['slower']:+.1f} %)",
            verdict,
        ]
    )


def check(result: dict[str, Any]) -> None:
    """`Grown` where something did."""
    if result["wrong"]:
        raise Grown("; ".join(result["wrong"]))
