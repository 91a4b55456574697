"""Runs on disk: which there are, how far they are, and what differs between them. Reads run directories only."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.config.schema import flatten
from lmx.io.records import (
    last_values,
    read_config,
    read_metrics,
    read_overrides,
    read_provenance,
    read_summary,
)
from lmx.io.run_dir import holder

_DEPTH = 5
_INSIDE = {"checkpoints", "tensorboard", "profile", "wandb"}
RESULTS = (
    "status",
    "steps",
    "tokens",
    "loss",
    "eval_loss",
    "eval_bits_per_byte",
    "skipped",
    "params",
    "tokens_per_second",
    "step_time",
    "mfu",
    "time_to_first_step",
    "wall_time",
)


class Run(NamedTuple):
    """A line of the list.

    status              done, running, stopped (resumable), failed, or died (it says running, and nobody works there)
    step, total         updates done, and configured (None where the length is in tokens or epochs)
    loss, eval_loss     the last ones
    tokens_per_second   median after warm-up; of a running one, the last
    age                 seconds since it last wrote anything
    varied              overrides in which it differs from the listed runs beside it, key -> value
    """

    name: str
    path: str
    status: str
    step: int | None
    total: int | None
    loss: float | None
    eval_loss: float | None
    bits_per_byte: float | None
    tokens_per_second: float | None
    age: float
    varied: dict[str, str]


def is_run(path: Path) -> bool:
    """Whether a folder is a run directory."""
    return (path / "config.yaml").is_file() and any(
        (path / name).exists() for name in ("summary.json", "metrics.jsonl", "lock")
    )


def find_runs(roots: Sequence[str | Path]) -> list[Path]:
    """Every run directory under the roots (or a root itself), in order; RequestError when no root exists."""
    folders = [Path(root).expanduser() for root in roots]
    if not any(folder.is_dir() for folder in folders):
        raise RequestError(
            f"root={','.join(map(str, roots))}: no such folder; name the one that holds your runs"
        )
    found: dict[Path, None] = {}
    for folder in folders:
        for run in _walk(folder, _DEPTH):
            found.setdefault(run)
    return list(found)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
        return
    if depth == 0:
        return
    try:
        inner = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    for name in inner:
        if not name.startswith(".") and name not in _INSIDE:
            yield from _walk(folder / name, depth - 1)


def select(names: Sequence[str], roots: Sequence[str | Path]) -> list[Path]:
    """The runs that paths, patterns, or names of folders under the roots mean; RequestError where one means none."""
    found: dict[Path, None] = {}
    known: list[Path] | None = None
    for name in names:
        path = Path(name).expanduser()
        hits = [path] if is_run(path) else [Path(p) for p in sorted(glob.glob(str(path))) if is_run(Path(p))]
        if not hits:
            if known is None:
                known = find_runs(roots) if any(Path(root).expanduser().is_dir() for root in roots) else []
            hits = _under(name, known)
        for hit in hits:
            found.setdefault(hit)
    return list(found)


def _under(name: str, known: Sequence[Path]) -> list[Path]:
    """Runs whose folder, or name, is `name` or is like it as a pattern; RequestError where it is not clear."""
    tests: tuple[Callable[[Path], bool], ...] = (
        lambda run: run.name == name or str(run).endswith(f"/{name}"),
        lambda run: read_summary(run).get("name") == name,
    )
    if any(c in name for c in "*?["):
        tests = (lambda run: fnmatch.fnmatch(run.name, name) or fnmatch.fnmatch(str(run), name),)
    for test in tests:
        hits = [run for run in known if test(run)]
        if len(hits) > 1 and not any(c in name for c in "*?["):
            lines = "\n".join(f"    {hit}" for hit in hits[:10])
            raise RequestError(f"{name}: {len(hits)} runs have this name; give the path of one:\n{lines}")
        if hits:
            return hits
    words = dict.fromkeys(
        word for run in known for word in (read_summary(run).get("name"), run.name, str(run))
    )
    near = difflib.get_close_matches(name, [word for word in words if isinstance(word, str)], n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; `lmx runs` lists those there are"
    raise RequestError(f"{name}: there is no such run{hint}")


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def describe(run: Path) -> Run:
    """A line of the list, from summary.json and the last rows of metrics.jsonl."""
    summary, last, config = read_summary(run), last_values(run), read_config(run)
    said = summary.get("status")
    if said in (None, "running"):
        said = "running" if holder(run) is not None else "died"
    final = summary if "steps" in summary and said != "running" else {}
    step = final.get("steps", last.get("step"))
    trainer = config.get("trainer") if isinstance(config.get("trainer"), dict) else {}
    pick = lambda key, row_key: _number(final.get(key) if final.get(key) is not None else last.get(row_key))
    return Run(
        name=str(summary.get("name") or config.get("name") or run.name),
        path=str(run),
        status=str(said),
        step=step if isinstance(step, int) else None,
        total=trainer.get("steps") if isinstance(trainer, dict) else None,
        loss=pick("loss", "loss"),
        eval_loss=pick("eval_loss", "eval/loss"),
        bits_per_byte=pick("eval_bits_per_byte", "eval/bits_per_byte"),
        tokens_per_second=pick("tokens_per_second", "tokens_per_second"),
        age=max(0.0, time.time() - _touched(run)),
        varied={},
    )


def _touched(run: Path) -> float:
    times = []
    for name in ("metrics.jsonl", "summary.json", "config.yaml"):
        try:
            times.append((run / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def list_runs(roots: Sequence[str | Path], *, match: str | None = None, sort: str = "age") -> list[Run]:
    """All runs under the roots, the newest or best first; those without the value come last."""
    runs = [describe(path) for path in find_runs(roots)]
    if match is not None:
        like = lambda run: any(
            fnmatch.fnmatch(text, match) for text in (run.name, run.path, Path(run.path).name)
        )
        runs = [run for run in runs if like(run)]
    runs = _with_varied(runs)
    if sort == "name":
        return sorted(runs, key=lambda run: (run.name, run.path))
    sign = -1.0 if sort == "tokens_per_second" else 1.0

    def key(run: Run) -> tuple[bool, float, str]:
        value = getattr(run, sort)
        return (value is None, sign * (value or 0.0), run.path)

    return sorted(runs, key=key)


def _with_varied(runs: Sequence[Run]) -> list[Run]:
    """Each run with the overrides that are not the same in all the listed runs of its folder."""
    folders: dict[Path, dict[str, dict[str, str]]] = {}
    for run in runs:
        folders.setdefault(Path(run.path).parent, {})[run.path] = read_overrides(Path(run.path))
    found = []
    for run in runs:
        beside = folders[Path(run.path).parent]
        same = set.intersection(*(set(other.items()) for other in beside.values()))
        varied = {key: value for key, value in beside[run.path].items() if (key, value) not in same}
        found.append(run._replace(varied=varied))
    return found


def labels(runs: Sequence[Path]) -> list[str]:
    """A short name for each run, all different: the folder's name, or the part of the path that tells them apart."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names) and not all(name.isdecimal() for name in names):
        return names
    paths = [str(run.absolute()) for run in runs]
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, common) for path in paths]


class Comparison(NamedTuple):
    """What differs between runs: key -> one value a run, ABSENT where a run has no such key.

    config   of the resolved configuration
    code     commits, versions, devices, seeds of the first start
    result   of the summary; all of it, equal or not
    """

    labels: list[str]
    paths: list[str]
    config: dict[str, list[Any]]
    code: dict[str, list[Any]]
    result: dict[str, list[Any]]


class _Absent:
    def __repr__(self) -> str:
        return "-"


ABSENT: Any = _Absent()


def compare(runs: Sequence[Path]) -> Comparison:
    """What differs between two runs or more."""
    if len(runs) < 2:
        raise RequestError(f"compare: needs two runs or more, and this means one alone: {runs[0]}")
    return Comparison(
        labels=labels(runs),
        paths=[str(run) for run in runs],
        config=_differing([flatten(read_config(run)) for run in runs]),
        code=_differing([_origin(run) for run in runs]),
        result=_results(runs),
    )


def _differing(trees: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for tree in trees for key in tree)
    rows = {key: [tree.get(key, ABSENT) for tree in trees] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row[1:])}


def _origin(run: Path) -> dict[str, Any]:
    starts = read_provenance(run)
    if not starts:
        return {}
    last = flatten(starts[-1])
    kept = ("code.", "packages.", "devices", "hosts", "python", "machine.host", "environment.", "config_hash")
    return {
        key: value for key, value in last.items() if key.startswith(kept) and not key.endswith(".untracked")
    }


def _results(runs: Sequence[Path]) -> dict[str, list[Any]]:
    summaries = []
    for run in runs:
        line = describe(run)
        live = {"steps": line.step, "loss": line.loss, "eval_loss": line.eval_loss}
        live |= {"eval_bits_per_byte": line.bits_per_byte, "tokens_per_second": line.tokens_per_second}
        known = {key: value for key, value in read_summary(run).items() if value is not None}
        summaries.append({k: v for k, v in live.items() if v is not None} | known | {"status": line.status})
    rows = {key: [s.get(key, ABSENT) for s in summaries] for key in RESULTS}
    rows = {key: row for key, row in rows.items() if any(value is not ABSENT for value in row)}
    held = [
        {r["step"]: r["eval/loss"] for r in read_metrics(run) if _number(r.get("eval/loss")) is not None}
        for run in runs
    ]
    common = set.intersection(*(set(h) for h in held))
    if common and any(max(h) != max(common) for h in held):
        rows[f"eval_loss at step {max(common)}"] = [h[max(common)] for h in held]
    return rows


def plot(runs: Sequence[Path], to: Path, *, axis: str) -> None:
    """Draws the losses of runs into one picture; ValueError where there is nothing to draw."""
    from lmx.io.curve import draw_loss

    draw_loss(runs, to, axis=axis, names=labels(runs))
