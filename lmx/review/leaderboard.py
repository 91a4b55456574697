"""A leaderboard of an experiment: how long its runs took to a target loss, over seeds, and what is more than noise.

The file is renewed from runs. It keeps a line for each run that it ever saw, so runs of other machines stay in it; the
table for readers is made from those lines.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.config.foreign import parse_json
from lmx.io.curve import read_curve
from lmx.io.records import read_config, read_overrides, read_provenance, read_summary
from lmx.review.arms import LEVEL, holm, welch

AS_IT_IS = "as it is"


class Entry(NamedTuple):
    """A run.

    id        its configuration, seed and start: what makes it another run
    changes   overrides that change what is computed, but for seed and data; of several, in order
    seconds   of training until the first evaluation at or below the target; None where it did not come so far
    step      of that evaluation
    loss      the last evaluation's
    """

    id: str
    changes: str
    seed: int
    devices: str
    seconds: float | None
    step: int | None
    loss: float
    commit: str
    date: str


class Arm(NamedTuple):
    """Runs that differ in the seed alone.

    reached       how many came to the target; mean, sd: of their seconds
    p_target      one-sided p-value that the mean of the last losses is below the target (t-test)
    p_difference  p-value of the difference in seconds from the experiment as it is (Welch, corrected by Holm)
    """

    changes: str
    devices: str
    runs: int
    reached: int
    mean: float | None
    sd: float | None
    loss: float
    p_target: float | None
    p_difference: float | None


def entries(
    runs: Sequence[Path], experiment: str, *, target: float, counts: Callable[[str, Any], bool]
) -> list[Entry]:
    """Those of the runs that are done and of this experiment.

    `counts`: whether a key, in a configuration, changes what is computed.
    """
    found = []
    for run in runs:
        tree, summary = read_config(run), read_summary(run)
        if tree.get("name") != experiment or summary.get("status") != "done":
            continue
        entry = _entry(run, tree, summary, target, counts)
        if entry is not None:
            found.append(entry)
    return found


def _entry(
    run: Path, tree: Any, summary: Mapping[str, Any], target: float, counts: Callable[[str, Any], bool]
) -> Entry | None:
    curve = read_curve(run, axis="time")
    if curve is None or not len(curve.held_out[0]):
        return None
    times, losses = curve.held_out
    by_step = read_curve(run, axis="steps")
    assert by_step is not None
    below = [i for i, loss in enumerate(losses) if loss <= target]
    first = below[0] if below else None
    start = (read_provenance(run) or [{}])[-1]
    code = start.get("code") if isinstance(start.get("code"), dict) else {}
    commit = code.get("commit") if isinstance(code, dict) else None
    seed = tree.get("trainer", {}).get("seed", 0)
    date = str(start.get("time") or start.get("started") or "")[:19]
    changes = [
        f"{key}={value}" for key, value in read_overrides(run).items() if _is_change(key, tree, counts)
    ]
    return Entry(
        id=f"{start.get('config_hash', run)} {seed} {date or run}",
        changes=" ".join(changes) or AS_IT_IS,
        seed=seed,
        devices=f"{summary.get('devices', 1)} x {summary.get('device_kind', 'unknown')}",
        seconds=None if first is None else float(times[first]),
        step=None if first is None else int(by_step.held_out[0][first]),
        loss=float(losses[-1]),
        commit=str(commit or "")[:12],
        date=date,
    )


def _is_change(key: str, tree: Any, counts: Callable[[str, Any], bool]) -> bool:
    root = key.replace("/", ".").partition(".")[0]
    if key in ("trainer.seed", "name") or root in ("experiment", "hydra", "data", "tokenizer"):
        return False
    return counts(key.replace("/", "."), tree)


def read(path: Path, experiment: str, target: float) -> list[Entry]:
    """The lines of a leaderboard file; [] where there is none. RequestError where it is of another target."""
    if not path.is_file():
        return []
    found = parse_json(path.read_text(encoding="utf-8"))
    if found["target"] != target:
        raise RequestError(
            f"loss={target:g}: {path} is of loss={found['target']:g}; remove it to begin anew, or to=FILE names another"
        )
    return [Entry(**line) for line in found["runs"]]


def renewed(old: Sequence[Entry], new: Sequence[Entry]) -> list[Entry]:
    """Both, each run once."""
    lines = {entry.id: entry for entry in [*old, *new]}
    return sorted(lines.values(), key=lambda e: (e.devices, e.changes, e.seed, e.id))


def write(path: Path, experiment: str, target: float, lines: Sequence[Entry]) -> None:
    """The lines as JSON, and the table beside it as Markdown."""
    told = {"experiment": experiment, "target": target, "runs": [entry._asdict() for entry in lines]}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(experiment, target, arms(lines, target)), encoding="utf-8")


def arms(lines: Sequence[Entry], target: float) -> list[Arm]:
    """The arms, on each kind of devices the fastest first; those that nobody came to the target with last."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in lines:
        groups.setdefault((entry.devices, entry.changes), []).append(entry)
    found = []
    for (devices, changes), group in groups.items():
        seconds = [e.seconds for e in group if e.seconds is not None]
        losses = [e.loss for e in group]
        found.append(
            Arm(
                changes,
                devices,
                len(group),
                len(seconds),
                statistics.fmean(seconds) if seconds else None,
                statistics.stdev(seconds) if len(seconds) > 1 else None,
                statistics.fmean(losses),
                below(losses, target),
                None,
            )
        )
    found = _with_differences(found, groups)
    return sorted(found, key=lambda a: (a.devices, a.mean is None, a.mean or 0.0, a.loss))


def _with_differences(found: Sequence[Arm], groups: Mapping[tuple[str, str], Sequence[Entry]]) -> list[Arm]:
    seconds = lambda key: [e.seconds for e in groups.get(key, ()) if e.seconds is not None]
    tests: dict[int, float] = {}
    for i, arm in enumerate(found):
        test = welch(seconds((arm.devices, arm.changes)), seconds((arm.devices, AS_IT_IS)))
        if arm.changes != AS_IT_IS and test is not None:
            tests[i] = test.p
    corrected = dict(zip(tests, holm(list(tests.values())), strict=True))
    return [arm._replace(p_difference=corrected.get(i)) for i, arm in enumerate(found)]


def below(losses: Sequence[float], target: float) -> float | None:
    """One-sided p-value of Student's t-test that their mean is below `target`; None with less than two."""
    from scipy.special import stdtr

    if len(losses) < 2:
        return None
    difference, sd = statistics.fmean(losses) - target, statistics.stdev(losses)
    if sd == 0.0:
        return 0.0 if difference < 0 else 1.0
    return float(stdtr(len(losses) - 1, difference / (sd / len(losses) ** 0.5)))


def markdown(experiment: str, target: float, found: Sequence[Arm]) -> str:
    """The table, with what its columns are."""
    p = lambda x: "" if x is None else f"{x:.2g}"
    lines = [
        f"# Leaderboard of {experiment}: seconds of training to an evaluation loss of {target:g}",
        "",
        "| | devices | seeds | reached it | mean | sd | last loss | p: loss below the target | p: differs |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for arm in found:
        mean = "" if arm.mean is None else f"{arm.mean:.1f} s"
        sd = "" if arm.sd is None else f"{arm.sd:.1f} s"
        lines.append(
            f"| {arm.changes} | {arm.devices} | {arm.runs} | {arm.reached} | {mean} | {sd} "
            f"| {arm.loss:.4f} | {p(arm.p_target)} | {p(arm.p_difference)} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            "Time is that of training steps until the first evaluation at or below the target, without compiling and "
            "evaluating. p: loss below the target is of the mean of the last losses (one-sided t-test over seeds); "
            f"p: differs is of the seconds against the experiment {AS_IT_IS} (Welch's t-test, corrected by Holm), "
            f"more than noise below {LEVEL}. Renewed by `lmx runs leaderboard {experiment} loss={target:g}`.",
            "",
        ]
    )
