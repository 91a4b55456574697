"""How long after `lmx train` is typed its first step is over, with an empty cache of programs and a full one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lmx.config.errors import FAILED, LmxError
from lmx.config.overrides import write_value
from lmx.run.bench_config import BenchStart

_POLL = 0.01
_ERRORS = "stderr.txt"


class DidNotStart(LmxError):
    """A run that was to be timed ended before its first row of metrics."""

    exit_code = FAILED


def bench_start(config: BenchStart) -> dict[str, Any]:
    """Starts `lmx train` in processes of their own, `rounds` times with an empty cache and with what that left in it.

    cold, warm        seconds from the start of a process to the first row of its metrics, one of each a round
    import_jax, help  seconds of a process that does that alone
    DidNotStart       where such a run fails
    """
    cold, warm, imports, helps = [], [], [], []
    for _ in range(config.rounds):
        with tempfile.TemporaryDirectory(prefix="lmx-start-") as folder:
            cold.append(_first_row(config, Path(folder), "cold"))
            warm.append(_first_row(config, Path(folder), "warm"))
        imports.append(_seconds([sys.executable, "-c", "import jax"]))
        helps.append(_seconds([sys.executable, "-m", "lmx", "--help"]))
    return {"cold": cold, "warm": warm, "import_jax": imports, "help": helps}


def _first_row(config: BenchStart, folder: Path, name: str) -> float:
    """Seconds to the first row of a run in `folder` that shares the cache there; it is let end."""
    run = folder / name
    own = {
        "trainer.compile_cache": str(folder / "cache"),
        "trainer.log_every": 1,
        "trainer.steps": 4,
        "hydra.run.dir": str(run),
    }
    words = [*config.words, *(f"{key}={write_value(value)}" for key, value in own.items())]
    metrics = run / "metrics.jsonl"
    with (folder / _ERRORS).open("w") as errors:
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "lmx", "train", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            while not _has_row(metrics) and child.poll() is None:
                time.sleep(_POLL)
            took = time.perf_counter() - began
        finally:
            code = child.wait()
    if code or not _has_row(metrics):
        raise DidNotStart(f"lmx train {' '.join(words)}: exit code {code}\n{(folder / _ERRORS).read_text()}")
    return took


def _has_row(metrics: Path) -> bool:
    try:
        return b"\n" in metrics.read_bytes()
    except FileNotFoundError:
        return False


def _seconds(words: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def start_text(found: dict[str, Any]) -> str:
    """The result of `bench_start` for people."""
    names = {
        "cold": "first row, with an empty cache of programs",
        "warm": "first row, with a filled one",
        "import_jax": "import jax alone",
        "help": "lmx --help",
    }
    width = max(map(len, names.values()))
    return "\n".join(
        f"{text:{width}}  {', '.join(f'{seconds:.2f}' for seconds in found[name])} s"
        for name, text in names.items()
    )
