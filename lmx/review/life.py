"""The life of a run, out of its ledger: attempts, what its model has seen, where the time went."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import UNSET, RequestError
from lmx.config.schema import flatten
from lmx.io.fork_origin import Fork, read_fork
from lmx.io.ledger import Attempt, Goodput, Seen, attempts_of, file_name, goodput_of, read_ledger, seen_by
from lmx.io.progress import duration
from lmx.io.records import read_provenance, read_rows, read_summary, read_tree_file
from lmx.io.run_dir import holder


class Stage(NamedTuple):
    """An attempt, with the code that it ran.

    lost  steps at its end that the next attempt did again
    code  commit, `+` where there were uncommitted changes; empty where it is not known
    """

    attempt: Attempt
    status: str
    lost: int
    code: str


class Life(NamedTuple):
    """`changes`: key -> (old, new), each time that a resumed run had another configuration; `fork`: where it began;
    `kept`: steps whose checkpoints are there; `damaged`: lines of its records that cannot be read, `FILE:LINE: why`.
    """

    path: Path
    name: str
    stages: tuple[Stage, ...]
    seen: Seen | None
    goodput: Goodput | None
    changes: tuple[Mapping[str, tuple[Any, Any]], ...]
    fork: Fork | None
    kept: tuple[int, ...]
    damaged: tuple[str, ...]


def of(path: Path) -> Life:
    """The life of the run in a directory; RequestError where it keeps no ledger."""
    lines = read_ledger(path / file_name(0))
    attempts = attempts_of(lines.objects)
    if not attempts and lines.bad:
        raise RequestError(lines.bad[0])
    if not attempts:
        raise RequestError(f"{path}: this run has no {file_name(0)}: it was made before ledgers were kept")
    codes = _codes(path, attempts)
    at_work = holder(path) is not None
    stages = []
    for i, (attempt, code) in enumerate(zip(attempts, codes, strict=True)):
        following = attempts[i + 1].start["step"] if i + 1 < len(attempts) else attempt.step
        running = at_work and i + 1 == len(attempts)
        status = attempt.status or ("running" if running else "died")
        stages.append(Stage(attempt, status, max(attempt.step - following, 0), code))
    summary = read_summary(path)
    return Life(
        path,
        str(summary.get("name") or path.name),
        tuple(stages),
        seen_by(path),
        goodput_of(attempts),
        tuple(_changes(path)),
        read_fork(path),
        tuple(sorted(int(p.name) for p in path.glob("checkpoints/*") if p.name.isdecimal())),
        lines.bad + read_rows(path).bad,
    )


def _codes(path: Path, attempts: Sequence[Attempt]) -> list[str]:
    """The code of each attempt; one that began because the run went back is in the process of the one before it."""
    processes = list(itertools.accumulate(int(attempt.went_back is None) for attempt in attempts))
    starts = read_provenance(path)[-processes[-1] :]
    known = [""] * (processes[-1] - len(starts)) + [_code(start) for start in starts]
    return [known[max(number, 1) - 1] for number in processes]


def _code(start: Mapping[str, Any]) -> str:
    code = start.get("code")
    state = code.get("lmx") if isinstance(code, dict) else None
    state = state if isinstance(state, dict) else {}
    commit = state.get("commit")
    return f"{commit[:10]}{'+' if state.get('dirty') else ''}" if isinstance(commit, str) else ""


def _changes(path: Path) -> list[dict[str, tuple[Any, Any]]]:
    number = lambda file: file.stem.rpartition("-")[2]
    earlier = [file for file in path.glob("config.before-resume-*.yaml") if number(file).isdecimal()]
    before = sorted(earlier, key=lambda file: int(number(file)))
    trees = [flatten(read_tree_file(file)) for file in [*before, path / "config.yaml"]]
    found = []
    for old, new in itertools.pairwise(trees):
        pairs = {key: (old.get(key, UNSET), new.get(key, UNSET)) for key in dict.fromkeys([*old, *new])}
        found.append({key: pair for key, pair in pairs.items() if pair[0] != pair[1]})
    return found


def as_json(life: Life) -> dict[str, Any]:
    """All of it as plain values."""
    return {
        "run": str(life.path),
        "name": life.name,
        "attempts": [
            {
                **stage.attempt.start,
                "last_step": stage.attempt.step,
                "last_time": stage.attempt.last,
                "status": stage.status,
                "steps_done_again": stage.lost,
                "code": stage.code,
                "checkpoints": list(stage.attempt.saved),
                "not_saved": list(stage.attempt.unsaved),
                "sent": list(stage.attempt.sent),
                "not_sent": list(stage.attempt.unsent),
                "seconds": dict(stage.attempt.seconds),
                "slowest": [dict(row["slowest"]) for row in stage.attempt.rows if "slowest" in row],
                "corruption": [dict(one) for one in stage.attempt.corrupt],
                "spikes": [dict(spike) for spike in stage.attempt.spikes],
            }
            for stage in life.stages
        ],
        "seen": None if life.seen is None else life.seen._asdict(),
        "goodput": None if life.goodput is None else life.goodput.as_json(),
        "checkpoints": list(life.kept),
        "fork": None if life.fork is None else life.fork._asdict(),
        "damaged": list(life.damaged),
        "changes": [
            {key: {"old": _plain(old), "new": _plain(new)} for key, (old, new) in change.items()}
            for change in life.changes
        ],
    }


def _saves(attempt: Attempt) -> list[str]:
    """What was saved and sent to the remote tier, and what could not be: a line each."""
    told = {
        "saved": attempt.saved,
        "could not save": attempt.unsaved,
        "sent to the remote tier": attempt.sent,
        "not sent": attempt.unsent,
    }
    return [f"    {words} {', '.join(map(str, steps))}" for words, steps in told.items() if steps]


def _plain(value: Any) -> Any:
    return None if value is UNSET else value


def text(life: Life) -> str:
    """All of it in words: a line an attempt, what was seen, where the time went."""
    lines = [f"{life.name}  {life.path}", ""]
    if life.fork is not None:
        lines.append(f"forked from {life.fork.run} after step {life.fork.step}, with")
        lines += [f"    {key}: {old} -> {new}" for key, (old, new) in life.fork.changes.items()]
    for number, stage in enumerate(life.stages):
        start = stage.attempt.start
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(start["time"]))
        took = duration(stage.attempt.last - start["time"])
        lost = f", {stage.lost} of them done again" if stage.lost else ""
        hosts = f" on {start['hosts']} processes" if start["hosts"] > 1 else ""
        mesh = " ".join(f"{axis} {size}" for axis, size in start["mesh"].items())
        devices = f"{start['devices']}{f' ({mesh})' if mesh else ''}{hosts}"
        code = f", code {stage.code}" if stage.code else ""
        lines.append(
            f"attempt {number}  {when}, {took}: steps {start['step'] + 1} to {stage.attempt.step}{lost}, {stage.status}"
        )
        if (went := stage.attempt.went_back) is not None:
            lines.append(
                f"    went back from step {went['at']} to {went['to']}: spikes since step {went['first_spike']}; "
                f"left out: {_data(went, went)}"
            )
        else:
            lines.append(f"    {devices}{code}, configuration {start['config'][:10]}, seed {start['seed']}")
        lines += _spikes(stage.attempt.spikes)
        lines += [
            f"    corruption at step {one['step']}: {one['what']}, {one['where']}; "
            f"{' or '.join(one['devices']) or 'which device is not known'}"
            for one in stage.attempt.corrupt
        ]
        lines += _slowest(stage.attempt.rows)
        lines += _saves(stage.attempt)
    lines += [f"damaged: {line}" for line in life.damaged]
    lines.append(f"checkpoints that are there: {', '.join(map(str, life.kept)) or 'none'}")
    for change in life.changes:
        lines.append("a resumed run changed")
        lines += [f"    {key}: {_plain(old)} -> {_plain(new)}" for key, (old, new) in change.items()]
    if life.seen is not None:
        data = life.seen.data or "not known as a whole"
        lines += ["", f"seen: steps 1 to {life.seen.steps}, {life.seen.examples:,} sequences, data {data}"]
        for first, last in life.seen.gaps:
            forked = life.fork is not None and last == life.fork.step
            lines.append(
                f"    steps {first} to {last} are {life.fork.run}'s"
                if forked and life.fork
                else f"    nothing is known of steps {first} to {last}"
            )
    if life.goodput is not None:
        lines.append(life.goodput.words())
    return "\n".join(lines)


SHOWN = 5
"""Stretches of spikes that are listed of an attempt."""


def _data(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    return (
        f"batches {first['first_batch']} to {last['last_batch']}, sequences {first['first_sequence']} to "
        f"{last['last_sequence']}"
    )


def _spikes(spikes: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each stretch of spikes: where, how high, on which data."""
    stretches: list[list[Mapping[str, Any]]] = []
    for spike in spikes:
        if stretches and spike["step"] == stretches[-1][-1]["step"] + 1:
            stretches[-1].append(spike)
        else:
            stretches.append([spike])
    lines = []
    for stretch in stretches[:SHOWN]:
        first, last = stretch[0], stretch[-1]
        where = f"step {first['step']}" if len(stretch) == 1 else f"steps {first['step']} to {last['step']}"
        highest = max(float(one["loss"]) for one in stretch)
        lines.append(f"    spike at {where}, loss up to {highest:.4f}, {_data(first, last)}")
    if len(stretches) > SHOWN:
        lines.append(f"    and {len(stretches) - SHOWN} more; `output=json` lists them")
    return lines


def _slowest(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The host that was named most often for holding the others up, with its mean excess; nothing where none was."""
    accounts = [row["slowest"] for row in rows if "slowest" in row]
    named = [account for account in accounts if account["named"]]
    if not named:
        return []
    counts = collections.Counter(account["host"] for account in named)
    host, times = counts.most_common(1)[0]
    mine = [account for account in named if account["host"] == host]
    excess = sum(account["excess"] for account in mine) / times
    spans = {
        kind: sum(account[kind] for account in mine) / times for kind in ("input", "step", "save", "between")
    }
    kind = max(spans, key=lambda name: spans[name])
    return [
        f"    slowest: {host} in {times} of {len(accounts)} accounts, {1000 * excess:.0f} ms a step behind the others, "
        f"most of it in {kind}"
    ]
