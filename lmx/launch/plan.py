"""Freezing a run: all that its hosts will need is written into one folder before anything starts.

RUN_DIR/launch/
    plan.json        target, policy, command line, code: `lmx launch attach` needs nothing else
    config.yaml      the resolved configuration, which every host runs
    code.tar code.diff        the snapshot of the code, and what in it is not committed
    events.jsonl     what the driver has done      driver.lock   held by the one that drives
    attempts/N/      logs of every process of attempt N, task-0.log, task-0.out, ...
    stop             written to ask for the end
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lmx.config.component import resolve_target
from lmx.config.errors import RequestError
from lmx.config.foreign import cut
from lmx.io.files import write_atomic
from lmx.io.lines import (
    is_count,
    is_object,
    is_text,
    is_texts_by_name,
    is_time,
    maybe,
    misfit,
    read_record,
)
from lmx.io.provenance import command_line
from lmx.launch.code import snapshot
from lmx.launch.target import Plan, Target


class Policy(NamedTuple):
    """How a run is looked after (see `launch` in conf/launch.yaml). Times in seconds."""

    max_failures: int
    max_preemptions: int | None
    grace: float
    poll_every: float
    restart_after: float
    host_wait: float | None = None


class Launch(NamedTuple):
    """A frozen launch, as the folder holds it."""

    plan: Plan
    target: Target
    policy: Policy


def freeze(
    tree: Mapping[str, Any],
    *,
    folder: Path,
    run_dir: Path,
    target: Mapping[str, Any],
    policy: Policy,
    environment: Mapping[str, str],
    hash_: str = "",
) -> Launch:
    """Writes the plan of a run: `tree` is its resolved configuration, `folder` does not hold a plan yet.

    RequestError where a plan is there already, and where the code cannot be taken.
    """
    if (folder / "plan.json").exists():
        raise RequestError(
            f"{folder.parent} was launched already; go on with it by `lmx launch attach {folder.parent}`, or name "
            "another hydra.run.dir"
        )
    built = load_target(target)
    built.check_request()
    folder.mkdir(parents=True, exist_ok=True)
    code = _take_code(folder) if built.takes_snapshot() else {}
    plan = Plan(
        run=run_dir.name,
        folder=folder.absolute(),
        run_dir=built.run_dir(run_dir),
        environment=dict(environment),
        code=code.get("hash"),
    )
    text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=110)
    write_atomic(plan.config, text, sync=True)
    record = {
        "run": plan.run,
        "run_dir": plan.run_dir,
        "environment": plan.environment,
        "code": code,
        "config_hash": hash_,
        "target": dict(target),
        "policy": policy._asdict(),
        "command": command_line(),
        "directory": os.getcwd(),
        "machine": platform.node(),
        "time": time.time(),
    }
    write_atomic(folder / "plan.json", json.dumps(record, indent=1) + "\n", sync=True)
    return Launch(plan, built, policy)


def _take_code(folder: Path) -> dict[str, Any]:
    """Keeps the code of the working directory in the launch's folder; what the plan says of it."""
    taken = snapshot(Path.cwd(), folder / "code.tar")
    write_atomic(folder / "code.diff", taken.diff)
    dirty = bool(taken.diff)
    return {"hash": taken.hash, "commit": taken.commit, "dirty": dirty, "has_lmx": taken.has_lmx}


def load(folder: Path) -> Launch:
    """The launch in a folder; RequestError where there is none, and where `plan.json` is damaged."""
    record = read_record(folder / "plan.json", _SHAPE)
    if record is None:
        raise RequestError(
            f"{folder.parent}: this run was not started by lmx launch (it has no launch/plan.json)"
        )
    plan = Plan(
        record["run"], folder.absolute(), record["run_dir"], record["environment"], record["code"].get("hash")
    )
    try:
        target = load_target(record["target"])
    except ValueError as error:
        told = cut(" ".join(str(error).split()), 300)
        raise RequestError(f"{folder / 'plan.json'}: `target` is none that this lmx knows: {told}") from error
    return Launch(plan, target, Policy(**record["policy"]))


def _is_policy(value: Any) -> bool:
    shape = {
        **{"max_failures": is_count, "max_preemptions": maybe(is_count), "grace": is_time},
        **{"poll_every": is_time, "restart_after": is_time},
    }
    known = isinstance(value, dict) and set(value) <= set(Policy._fields)
    return known and misfit({"host_wait": None, **value}, {**shape, "host_wait": maybe(is_time)}) is None


_SHAPE = {
    **{
        "run": is_text,
        "run_dir": is_text,
        "environment": is_texts_by_name,
        "target": is_object,
        "policy": _is_policy,
    },
    "code": lambda value: is_object(value) and isinstance(value.get("hash"), str | None),
}


def load_target(tree: Mapping[str, Any]) -> Target:
    """The target of a plain tree with its `_target_`."""
    resolve_target(tree.get("_target_"), Target)
    return Target.model_validate(dict(tree))


def find(run: str, root: str) -> Path:
    """The launch folder of a run that a person names: its directory, or its name under `root`; RequestError."""
    for path in (Path(run), Path(root) / run):
        if (path / "launch" / "plan.json").is_file():
            return path / "launch"
    names = [path.parent.parent.name for path in Path(root).glob("*/launch/plan.json")]
    near = [name for name in names if run in name] or sorted(names)[-3:]
    hint = f"; launched runs there: {', '.join(near[:5])}" if near else ""
    raise RequestError(f"there is no launched run {run!r}, neither as a path nor under {root}{hint}")
