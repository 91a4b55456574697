"""From a command line to a frozen sweep: every point composed and validated, duplicates dropped, then written."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.component import Config
from lmx.config.compose import Composer
from lmx.config.errors import ConfigError, RequestError
from lmx.config.sweep import Point, check_sweep
from lmx.io.provenance import describe_start
from lmx.launch.versions import differing
from lmx.sweep.order import program_order
from lmx.sweep.plan import Job, Plan


class Frozen(NamedTuple):
    """The jobs, the keys that differ between them, and how many points were the same as an earlier one."""

    jobs: list[Job]
    varied: list[str]
    duplicates: int


def points(command: str, schema: type[Config], overrides: Sequence[str], **places: Any) -> list[Point]:
    """Every point that the overrides describe; ConfigError with the problems of all of them."""
    composer = Composer(command, schema, overrides=overrides, **places)
    sweep = check_sweep(composer, overrides)
    if sweep.problems:
        raise ConfigError(sweep.problems, command)
    if not sweep.complete:
        raise RequestError(
            "hydra/sweeper: a sweeper that chooses its points as it goes cannot be frozen; "
            "use `lmx train -m hydra/launcher=local_pool ...` with it"
        )
    return sweep.points


def freeze(found: Sequence[Point]) -> Frozen:
    """The jobs of points: those with the configuration of an earlier one are dropped."""
    jobs: list[Job] = []
    seen: set[str] = set()
    for point in found:
        composed = point.composed
        if composed.hash not in seen:
            seen.add(composed.hash)
            jobs.append(Job(len(jobs), list(point.overrides), composed.hash, composed.tree))
    return Frozen(jobs, varied_keys([job.overrides for job in jobs]), len(found) - len(jobs))


def varied_keys(overrides: Sequence[Sequence[str]]) -> list[str]:
    """The keys of overrides that are not the same in all of them, in order."""
    given = [values_of(lines) for lines in overrides]
    keys = dict.fromkeys(key for values in given for key in values)
    return [key for key in keys if len({values.get(key) for values in given}) > 1]


def values_of(overrides: Sequence[str]) -> dict[str, str]:
    """Key -> value of overrides, in the words of the command line."""
    parts = (line.lstrip("+").partition("=") for line in overrides)
    return {key: value for key, _, value in parts}


def code_state() -> dict[str, Any]:
    """Commit of the code, and the hash of the changes to it; {} where it is not in a checkout."""
    start = describe_start()
    found = {}
    for name, state in start.facts["code"].items():
        diff = start.diffs.get(name, "")
        found[name] = {
            "commit": state.get("commit"),
            "dirty": state.get("dirty"),
            "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
        }
    return {**found, "packages": {"Python": start.facts["python"], **start.facts["packages"]}}


def changed_code(frozen: Mapping[str, Any]) -> list[str]:
    """How the code here differs from that of a freeze (`code_state`), in words; [] where it does not."""
    now, found = code_state() if frozen else {}, []
    for name, before in frozen.items():
        after = now.get(name)
        if after == before:
            continue
        if name == "packages":
            words = [f"{what} {then} then, {here} now" for what, then, here in differing(before, now[name])]
            found += [f"{platform.node()}: {', '.join(words)}"] if words else []
            continue
        if after is None:
            found.append(f"{name}: was in a checkout then")
        elif after["commit"] != before["commit"]:
            found.append(f"{name}: commit {before['commit']} then, {after['commit']} now")
        else:
            found.append(f"{name}: what is not committed is not the same as then")
    return found


def make_plan(
    folder: Path,
    frozen: Frozen,
    *,
    command: Sequence[str],
    program: Sequence[str],
    settings: dict[str, Any],
    code: dict[str, Any] | None = None,
) -> Plan:
    """The plan of frozen jobs for a folder; nothing is written."""
    return Plan(
        name=folder.name,
        command=list(command),
        program=list(program),
        code=code_state() if code is None else code,
        settings=settings,
        varied=frozen.varied,
        jobs=frozen.jobs,
        order=program_order(frozen.jobs),
    )
