"""`lmx fork`: a run that goes on from a checkpoint of another one, in a directory of its own, with changes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lmx.config.component import Config, field
from lmx.config.errors import UNSET, RequestError
from lmx.config.resume import load_resumed
from lmx.config.schema import Difference, differences
from lmx.config.types import Flag, Text
from lmx.data.kept import FOLDER
from lmx.faults.acts import staged
from lmx.faults.config import RECORD
from lmx.io.files import write_atomic
from lmx.io.fork_origin import FORK, Fork, write_fork
from lmx.io.run_dir import split_rows
from lmx.io.stored import Stored, Which
from lmx.run.config import TrainConfig


class ForkRequest(Config):
    """`lmx fork`: its keys."""

    from_: Text = field(
        "RUN, RUN@STEP or RUN@best: where the new run begins",
        effect="bookkeeping",
        example="runs/RUN@500",
        alias="from",
    )
    to: Text | None = field("folder of the new run; null: RUN-fork-N beside it", effect="bookkeeping")
    root: list[Text] | Text = field("folders that are searched for runs", effect="bookkeeping")
    train: Flag = field("whether the new run is trained at once", effect="bookkeeping")
    changes: list[Text] = field("overrides of lmx train", effect="bookkeeping")


class Made(NamedTuple):
    """A forked run: its directory, the step it goes on after, and what it changes."""

    path: Path
    step: int
    changes: list[Difference]


def which_of(text: str) -> tuple[str, Which]:
    """`RUN@500` as (RUN, 500); RequestError where what follows the last @ is no step, `best` or `last`."""
    name, at, which = text.rpartition("@")
    if not at:
        return text, "last"
    if which in ("best", "last"):
        return name, which  # type: ignore[return-value]
    if not which.isdecimal():
        raise RequestError(f"from={text}: {which!r} is no step; give RUN@STEP, RUN@best or RUN")
    return name, int(which)


def fork(run: Path, which: Which, changes: list[str], to: Path | None, **places: Any) -> Made:
    """Makes the directory of a run that is at a checkpoint of `run` already; nothing is left where that fails.

    Every key may change; whether the checkpoint fits is seen when the run goes on. ConfigError, RequestError.
    """
    composed = load_resumed(run, changes, TrainConfig, command="train", extendable=["*"], **places)
    checkpoints = Stored(run / "checkpoints")
    step = checkpoints.manifest(which).step
    to = to or _free(run)
    if to.exists():
        raise RequestError(f"to={to}: this folder is there already; name another one")
    old = load_resumed(run, [], TrainConfig, command="train", **places)
    changed = differences(
        {**old.tree, "resume": None}, tree := {**composed.tree, "resume": None}, TrainConfig
    )
    making = to.with_name(f".{to.name}.making-{os.getpid()}")
    try:
        making.mkdir(parents=True)
        _fill(making, run, step, tree, composed.overrides)
        come = [entry for entry in staged(run) if entry["step"] <= step]
        if come and not any(d.key.partition(".")[0] == "fault" for d in changed):
            write_atomic(making / RECORD, "".join(f"{json.dumps(entry)}\n" for entry in come))
        told = {d.key: (_plain(d.old), _plain(d.new)) for d in changed}
        write_fork(making / FORK, Fork(str(run.absolute()), step, old.hash, told))
        making.rename(to)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return Made(to, step, changed)


def _plain(value: Any) -> Any:
    return None if value is UNSET else value


def _free(run: Path) -> Path:
    numbered = (run.with_name(f"{run.name}-fork-{n}") for n in range(1, 100_000))
    return next(path for path in numbered if not path.exists())


def _fill(to: Path, run: Path, step: int, tree: dict[str, Any], overrides: list[str]) -> None:
    """What a run that has just saved `step` would have in its directory."""
    write_atomic(to / "config.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110))
    before = run / "overrides.yaml"
    lines = yaml.safe_load(before.read_text(encoding="utf-8")) or [] if before.is_file() else []
    write_atomic(
        to / "overrides.yaml", yaml.safe_dump([*lines, *overrides], allow_unicode=True, width=10_000)
    )
    shutil.copytree(run / "checkpoints" / str(step), to / "checkpoints" / str(step), copy_function=_link)
    if (run / FOLDER).is_dir():
        shutil.copytree(run / FOLDER, to / FOLDER)
    metrics = run / "metrics.jsonl"
    if metrics.is_file():
        kept, _ = split_rows(metrics.read_text(encoding="utf-8", errors="replace"), step)
        write_atomic(to / "metrics.jsonl", "".join(kept))


def _link(source: str, to: str) -> None:
    """Files of a checkpoint never change: two runs can have the same one."""
    try:
        os.link(source, to)
    except OSError:
        shutil.copy2(source, to)
