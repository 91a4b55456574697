"""Whether two runs are the same: the data that they read, every metric, parameters and optimizer state."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmx.io.lines import read_lines
from lmx.io.manifest import Manifest, read_manifest
from lmx.io.records import read_rows

TIMES = ("step_time", "tokens_per_second", "mfu", "slowest")
"""Metrics that say how long something took: they differ between any two runs."""
RESULTS = ("loss", "eval_loss", "eval_bits_per_byte", "skipped", "steps", "tokens")


class Difference(NamedTuple):
    """Something that is not the same.

    kind    data, metrics, summary, params, opt_state, ...
    name    of the row of a batch, the metric, the array
    step    at which; the last step for what is compared at the end
    error   relative; infinite where one side has no such thing, or it is no number
    """

    kind: str
    name: str
    step: int
    expected: Any
    found: Any
    error: float

    def __str__(self) -> str:
        shown = f"{self.expected} in the undisturbed run, {self.found} here"
        size = f" (relative difference {self.error:.1e})" if math.isfinite(self.error) else ""
        return f"{self.kind} {self.name} at step {self.step}: {shown}{size}"


class Comparison(NamedTuple):
    """What was compared, and what differs by more than is allowed, the earliest first.

    counts   kind -> how many things were compared
    worst    kind -> largest relative difference, allowed or not
    """

    counts: dict[str, int]
    worst: dict[str, float]
    differences: list[Difference]

    @property
    def first(self) -> Difference | None:
        """The first difference that is not allowed."""
        return self.differences[0] if self.differences else None


def compare_runs(expected: Path, found: Path, *, tolerance: float) -> Comparison:
    """Compares the run directories of two finished runs of equal length, each with the witness of every start in it.

    `tolerance` 0: bit for bit; else the largest relative difference of a number, or of an array's 2-norm. What was
    read, and whole numbers, are always compared exactly.
    """
    everything = [
        *compare_data(read_data(expected), read_data(found)),
        *_compare_metrics(expected, found),
        *_compare_states(expected, found),
    ]
    counts: dict[str, int] = {}
    worst: dict[str, float] = {}
    for difference in everything:
        counts[difference.kind] = counts.get(difference.kind, 0) + 1
        worst[difference.kind] = max(worst.get(difference.kind, 0.0), difference.error)
    order = list(counts)
    bad = [d for d in everything if d.error > (tolerance if isinstance(d.expected, float) else 0.0)]
    return Comparison(counts, worst, sorted(bad, key=lambda d: (d.step, order.index(d.kind))))


# ---- data


class Reading(NamedTuple):
    """What a run read: (step, row) -> hash; and rows that a later start of it read as something else."""

    rows: dict[tuple[int, int], str]
    contradictions: list[tuple[int, int, str, str]]


def witnessed(run: Path) -> list[dict[str, Any]]:
    """The lines of every witness in a run's directory; a line that a kill cut short is left out."""
    return [line for path in _witnesses(run) for line in _lines(path)]


def _witnesses(run: Path) -> list[Path]:
    return sorted(run.glob("witness-*/*.jsonl"))


def _lines(path: Path) -> list[dict[str, Any]]:
    return read_lines(path).sound()


def read_data(run: Path) -> Reading:
    """What the starts of a run read, together; of steps that it went back on because of spikes, what it read then."""
    rows: dict[tuple[int, int], str] = {}
    contradictions: list[tuple[int, int, str, str]] = []
    for path in _witnesses(run):
        mine: set[int] = set()
        for line in _lines(path):
            if "rewind" in line:
                gone = lambda key, to=line["rewind"], own=mine: key[0] > to and key[1] in own
                rows = {key: digest for key, digest in rows.items() if not gone(key)}
                contradictions = [one for one in contradictions if not gone(one)]
            for row, digest in line.get("rows", {}).items():
                key = (line["read"], int(row))
                mine.add(int(row))
                if rows.setdefault(key, digest) != digest:
                    contradictions.append((*key, rows[key], digest))
    return Reading(rows, contradictions)


def compare_data(expected: Reading, found: Reading) -> Iterator[Difference]:
    """A difference (0 where equal) for each row of each batch; batches that were read ahead of the end are left out."""
    last = max((step for step, _ in expected.rows), default=0)
    for (step, row), digest in expected.rows.items():
        other = found.rows.get((step, row))
        if other is None and step == last:
            continue
        yield Difference("data", f"row {row}", step, digest, other, 0.0 if other == digest else math.inf)
    for step, row, first, then in found.contradictions:
        yield Difference("data", f"row {row}, read again", step, first, then, math.inf)


# ---- metrics


def relative(expected: Any, found: Any) -> float:
    """|expected - found| relative to the larger of both; 0 for two NaN, infinite where only one is a number."""
    if isinstance(expected, float) and isinstance(found, float):
        if expected == found or (math.isnan(expected) and math.isnan(found)):
            return 0.0
        error = abs(expected - found) / max(abs(expected), abs(found))
        return error if math.isfinite(error) else math.inf
    return 0.0 if type(expected) is type(found) and expected == found else math.inf


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}[{i}]")
    else:
        yield prefix, value


def _metrics(run: Path) -> dict[tuple[int, str], Any]:
    found: dict[tuple[int, str], Any] = {}
    for row in read_rows(run).sound():
        step = row.pop("step")
        for name, value in _flat(row):
            if name.partition(".")[0] not in TIMES:
                number = len([1 for key in found if key == (step, name)])
                found[step, name if not number else f"{name} (again)"] = value
    return found


def _compare_metrics(expected: Path, found: Path) -> Iterator[Difference]:
    left, right = _metrics(expected), _metrics(found)
    for step, name in dict.fromkeys([*left, *right]):
        a, b = left.get((step, name)), right.get((step, name))
        yield Difference("metrics", name, step, a, b, relative(a, b))
    one, other = (json.loads((run / "summary.json").read_text()) for run in (expected, found))
    for name in RESULTS:
        a, b = one.get(name), other.get(name)
        yield Difference("summary", name, one["steps"], a, b, relative(a, b))


# ---- states


def last_checkpoint(run: Path) -> int | None:
    """The newest step that has a whole checkpoint: it was renamed to its number, with a sound manifest in it."""
    numbers = [int(p.name) for p in (run / "checkpoints").glob("[0-9]*") if p.name.isdecimal()]
    whole = [n for n in numbers if isinstance(read_manifest(run / "checkpoints" / str(n)), Manifest)]
    return max(whole, default=None)


def load_arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Name -> array, of all that a checkpoint holds."""
    import jax

    from lmx.io import arrays
    from lmx.io.leaves import nest, pick

    manifest = read_manifest(checkpoint)
    if isinstance(manifest, str):
        raise ValueError(f"{checkpoint} cannot be used: {manifest}")
    here = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, jax.numpy.dtype(leaf.dtype), sharding=here)
        for name, leaf in manifest.leaves.items()
    }
    loaded = arrays.load(checkpoint, nest(wanted), partial=False)
    return {name: np.asarray(pick(loaded, name)) for name in wanted}


def _compare_states(expected: Path, found: Path) -> Iterator[Difference]:
    step = last_checkpoint(expected)
    other = last_checkpoint(found)
    if step is None or other != step:
        yield Difference("params", "checkpoint", step or 0, step, other, math.inf)
        return
    left, right = (load_arrays(run / "checkpoints" / str(step)) for run in (expected, found))
    for name in dict.fromkeys([*left, *right]):
        kind = name.partition(".")[0]
        if name not in left or name not in right:
            yield Difference(kind, name, step, name in left, name in right, math.inf)
            continue
        yield compare_arrays(kind, name, step, left[name], right[name])


def compare_arrays(kind: str, name: str, step: int, expected: np.ndarray, found: np.ndarray) -> Difference:
    """Relative difference in the 2-norm; exact, in bits, where it is 0. Shown are the first elements that differ."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        shapes = [f"{a.dtype}{list(a.shape)}" for a in (expected, found)]
        return Difference(kind, name, step, shapes[0], shapes[1], math.inf)
    if expected.tobytes() == found.tobytes():
        return Difference(kind, name, step, 0.0, 0.0, 0.0)
    a, b = expected.ravel(), found.ravel()
    differ = np.flatnonzero((a != b) & ~((a != a) & (b != b)))
    at = int(differ[0]) if len(differ) else 0
    if not np.issubdtype(a.dtype, np.integer):
        wide, other = a.astype(np.float64), b.astype(np.float64)
        size = max(float(np.linalg.norm(wide)), float(np.linalg.norm(other)))
        error = float(np.linalg.norm(wide - other)) / size if size else math.inf
        error = error if math.isfinite(error) and error > 0 else math.inf
        return Difference(kind, f"{name}[{at}]", step, float(a[at]), float(b[at]), error)
    return Difference(kind, f"{name}[{at}]", step, int(a[at]), int(b[at]), math.inf)
