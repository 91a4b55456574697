"""`lmx verify mesh`: rows of runs in processes of their own, each compared with the first."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.compose import Composed
from lmx.config.errors import FAILED, ConfigError, LmxError, Problem
from lmx.config.origins import command_line
from lmx.run.verify_compare import Comparison, Difference, Recorded, compare, compare_traces, worst
from lmx.run.verify_config import VerifyMesh
from lmx.run.verify_processes import Failure, Run, run_all
from lmx.run.verify_progress import opening

FLOAT32 = ("trainer.param_dtype=float32", "trainer.compute_dtype=float32")
TRACED = 3
"""Rows that differ of which activations are looked at, at most."""


class Disagreement(LmxError):
    """Some rows differ from the reference."""

    exit_code = FAILED


class RowFailed(LmxError):
    """Some rows could not be run."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Planned(NamedTuple):
    """One row before it is run: its name, option of mesh, overrides, processes, and the whole configuration."""

    name: str
    mesh: str
    overrides: list[str]
    processes: int
    tree: dict[str, Any]


def plan(composed: Composed[VerifyMesh]) -> list[Planned]:
    """A row for each mesh and each variant; ConfigError where one of them has no configuration."""
    config = composed.config
    meshes = list(dict.fromkeys(config.meshes))
    if len(meshes) == 1 and meshes != ["single"]:
        meshes = ["single", *meshes]
    asked: list[tuple[str, str, list[str], int]] = [
        (name, name, config.verify.meshes.get(name, []), 1) for name in meshes
    ]
    for name in config.verify.rows:
        variant = config.verify.variants[name]
        asked.append((name, variant.mesh or meshes[0], variant.overrides, variant.processes))
    rows = []
    for name, mesh, overrides, processes in asked:
        own = [f"mesh={mesh}", *FLOAT32, *overrides]
        replaced = {line.partition("=")[0] for line in own} | {"meshes"}
        kept = [line for line in composed.overrides if line.partition("=")[0] not in replaced]
        assert composed.composer is not None
        found, problems = composed.composer.check([*kept, *own])
        if found is None:
            problems = [_in_list(problem, config.meshes) for problem in problems]
            raise ConfigError(problems, f"verify mesh, row {name}")
        tree = {key: value for key, value in found.tree.items() if key not in ("meshes", "verify")}
        rows.append(Planned(name, mesh, overrides, processes, tree))
    return rows


def _in_list(problem: Problem, meshes: Sequence[str]) -> Problem:
    """A problem of one option of `mesh=a,b,c`, told of the list as it was typed, and mended in it."""
    name = (problem.origin or "").removeprefix(command_line("mesh="))
    if name not in meshes or problem.fix is None or not problem.fix.startswith("mesh="):
        return problem
    meant = problem.fix.removeprefix("mesh=")
    mended = dict.fromkeys(meant if mesh == name else mesh for mesh in meshes)
    return replace(problem, origin=command_line(f"mesh={','.join(meshes)}"), fix=f"mesh={','.join(mended)}")


def verify_mesh(composed: Composed[VerifyMesh]) -> dict[str, Any]:
    """Runs and compares; see `docs/meshes.md` for the result.

    ConfigError where a row has no configuration, LmxError where the reference cannot be run.
    """
    rows, knobs = plan(composed), composed.config.verify
    folder = Path(tempfile.mkdtemp(prefix="lmx-verify-"))
    try:
        runs = [Run(r.name, r.tree, folder / f"{i}", r.processes) for i, r in enumerate(rows)]
        twin = Run(f"{rows[0].name}, a rounding away", rows[0].tree, folder / "twin", 1, twin=True)
        job = {"steps": knobs.steps, "devices": knobs.devices, "timeout": knobs.timeout, "say": _say}
        variants = knobs.rows
        meshes = [row.name for row in rows[: len(rows) - len(variants)]]
        _say(opening(meshes, variants, steps=knobs.steps))
        failed = run_all([runs[0], twin, *runs[1:]], **job)
        for run in (runs[0], twin):
            if run.folder in failed:
                raise RowFailed(f"{run.name}: {failed[run.folder].message}", failed[run.folder].exit_code)
        reference, shaken = Recorded(runs[0].folder), Recorded(twin.folder)
        found: list[tuple[Planned, Run, Comparison | Failure]] = [
            (row, run, failed[run.folder])
            if run.folder in failed
            else (row, run, compare(reference, shaken, Recorded(run.folder), tolerance=knobs.tolerance))
            for row, run in zip(rows, runs, strict=True)
        ]
        bad = [(run, c) for _, run, c in found if isinstance(c, Comparison) and not c.agrees]
        traces = _traces(bad[:TRACED], runs[0], twin, folder, job, knobs.tolerance)
        return {
            "agrees": all(isinstance(c, Comparison) and c.agrees for _, _, c in found),
            "reference": rows[0].name,
            "steps": knobs.steps,
            "devices": knobs.devices,
            "tolerance": knobs.tolerance,
            "losses": reference.losses,
            "rows": [_row(row, run, c, traces.get(run.name)) for row, run, c in found],
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check(result: dict[str, Any]) -> None:
    """Disagreement where rows differ, RowFailed where some could not be run."""
    differ = [row["name"] for row in result["rows"] if row["agrees"] is False and row["error"] is None]
    failed = [row for row in result["rows"] if row["error"] is not None]
    if differ:
        raise Disagreement(
            f"{', '.join(differ)} {'differs' if len(differ) == 1 else 'differ'} from {result['reference']}"
        )
    if failed:
        code = FAILED if any(row["exit_code"] == FAILED for row in failed) else failed[0]["exit_code"]
        raise RowFailed(f"{', '.join(row['name'] for row in failed)} could not be run", code)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _traces(
    bad: Sequence[tuple[Run, Comparison]],
    reference: Run,
    twin: Run,
    folder: Path,
    job: dict,
    tolerance: float,
) -> dict[str, dict[str, Any]]:
    """Row -> step, and the first differences forward and backward there."""
    steps = {run.name: comparison.first_bad_step() or 0 for run, comparison in bad}
    runs = {
        (run.name, step): run._replace(folder=folder / f"trace_{i}_{step}", trace=step)
        for step in sorted(set(steps.values()))
        for i, run in enumerate([reference, twin, *(run for run, _ in bad)])
        if steps.get(run.name, step) == step or run in (reference, twin)
    }
    failed = run_all(list(runs.values()), **job) if runs else {}
    found: dict[str, dict[str, Any]] = {}
    for name, step in steps.items():
        three = [runs[n, step].folder for n in (reference.name, twin.name, name)]
        why = next((failed[path].message for path in three if path in failed), None)
        if why is not None:
            found[name] = {"step": step, "error": why, "forward": None, "backward": None, "seen": 0}
            continue
        traced = compare_traces(*(Recorded(path) for path in three), tolerance=tolerance)  # type: ignore[misc]
        found[name] = {
            "step": step,
            "error": None
            if traced.seen
            else "none has a name outside of what each device computes by itself",
            "forward": _shown(traced.forward),
            "backward": _shown(traced.backward),
            "seen": traced.seen,
        }
    return found


def _shown(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    kept = difference._asdict()
    return {key: (str(v) if isinstance(v, float) and v != v else v) for key, v in kept.items()}


def _row(row: Planned, run: Run, found: Comparison | Failure, trace: dict[str, Any] | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": row.name,
        "mesh": row.mesh,
        "overrides": row.overrides,
        "processes": row.processes,
        "axes": None,
        "agrees": False,
        "error": None,
        "exit_code": 0,
        "initial_differ": None,
        "loss": None,
        "gradients": None,
        "updates": None,
        "first": None,
        "trace": trace,
    }
    if isinstance(found, Failure):
        return told | {"error": found.message, "exit_code": found.exit_code}
    step = found.first_bad_step()
    first = None if step is None else [d for d in found.all if d.step == step and d.ratio > 1]
    return told | {
        "axes": Recorded(run.folder).meta["mesh"],
        "agrees": found.agrees,
        "initial_differ": found.initial,
        "loss": _shown(worst(found.loss)),
        "gradients": _shown(worst(found.gradients)),
        "updates": _shown(worst(found.updates)),
        "first": None if not first else {"step": step, "tensors": [_shown(d) for d in first]},
    }
