"""A run's ledger as a reader sees it: its life over restarts, what its model has seen, and where the time went.

RUN/ledger.jsonl (of further processes ledger.1.jsonl, ...) only ever grows; `lmx.run.ledger` writes it:

{"event": "start", "time", "attempt", "step", "total", "batch", "config", "seed", "devices", "mesh", "hosts"}
{"event": "spike", "time", "step", "loss", "grad_norm", "loss_deviations", "grad_norm_deviations", "first_batch", ...}
{"event": "corruption", "time", "step", "what", "where", "error", "devices"}          a replay differed
{"event": "steps", "time", "first", "last", "data", "loss", "grad_norm", "seconds"}   done, on this data
{"event": "saved", "time", "step"}            a checkpoint is whole; "unsaved": it could not be written
{"event": "sent", "time", "step"}             it is whole in the remote tier; "unsent": it does not come there
{"event": "end", "time", "step", "status", "seconds"}                                 the attempt ended by itself

A line on steps of several processes has `slowest` where there is a new account of it (see `lmx.run.stragglers`).
Where a run goes back because of spikes, that is an end with status `rewound` and a start in the same process, with
`rewound`: from which step to which, and the data left out. `left_out` of a start: all batches that are, from there on
(see `lmx.data.windows`).

`data` is a sum over rows, so that it does not depend on how many processes read them. `seconds` are those of the
attempt so far: start, training, input, replay, evaluate, sample, save.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.io.lines import Lines, is_count, is_switch, is_text, is_time, maybe, misfit, read_lines

MODULUS = 1 << 64
WORTH_TELLING = 60.0
"""Seconds of a run from which its goodput says something: a shorter one is set-up and noise."""
KINDS = ("start", "training", "input", "replay", "evaluate", "sample", "save")


def file_name(process: int) -> str:
    """The ledger of a process in the run directory."""
    return "ledger.jsonl" if process == 0 else f"ledger.{process}.jsonl"


class Attempt(NamedTuple):
    """A stretch of a run in one process group.

    start    its first line
    last     time of its last line with an account of seconds, seconds since the epoch
    step     the last step that it tells of
    status   done, stopped, failed or rewound; None: it died, or is at work
    seconds  where its time went
    rows     its lines on steps
    saved    steps of its whole checkpoints; `sent`: of those that are in the remote tier too
    unsaved  steps of those that could not be written; `unsent`: that did not come to the remote tier
    spikes   its lines on spikes
    corrupt  its lines on replays that differed
    """

    start: Mapping[str, Any]
    last: float
    step: int
    status: str | None
    seconds: Mapping[str, float]
    rows: tuple[Mapping[str, Any], ...]
    saved: tuple[int, ...]
    unsaved: tuple[int, ...] = ()
    sent: tuple[int, ...] = ()
    unsent: tuple[int, ...] = ()
    spikes: tuple[Mapping[str, Any], ...] = ()
    corrupt: tuple[Mapping[str, Any], ...] = ()

    @property
    def went_back(self) -> Mapping[str, Any] | None:
        """Where the run went back to begin this attempt: what its first line says of that."""
        return self.start.get("rewound")


class Goodput(NamedTuple):
    """Where the wall time of a run went, over restarts, in seconds.

    wall      from the first start to the last account
    seconds   `training` that counts, and what does not: `start` (set-up, compiling, restoring), `input` (the devices
              waited for a batch), `replay`, `evaluate`, `sample`, `save` (as far as it held training up), `lost`
              (training of steps that were done again), `down` (between the last account of an attempt and the start of
              the next)
    lost      steps that were done again
    restarts  attempts after the first, but those that began because the run went back on spikes
    """

    wall: float
    seconds: dict[str, float]
    lost: int
    restarts: int

    @property
    def fraction(self) -> float:
        """Training that counts, of all wall time."""
        return self.seconds["training"] / self.wall if self.wall > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        """For summary.json."""
        rounded = {kind: round(value, 3) for kind, value in self.seconds.items()}
        return {
            "fraction": round(self.fraction, 4),
            "wall": round(self.wall, 3),
            "seconds": rounded,
            "lost_steps": self.lost,
            "restarts": self.restarts,
        }

    def words(self) -> str:
        """`goodput 93.1 % of 152 s: start 4.1 s, evaluate 5.0 s`."""
        rest = {k: v for k, v in self.seconds.items() if k != "training" and v >= 0.05}
        listed = ", ".join(f"{kind} {value:.1f} s" for kind, value in rest.items())
        return f"goodput {100 * self.fraction:.1f} % of {self.wall:.0f} s" + (f": {listed}" if listed else "")


class Seen(NamedTuple):
    """What the model has been trained on: the steps that count, in order.

    steps     the last one
    examples  rows of global batches
    data      hash over all rows with their places; None where a part is not known
    gaps      stretches of steps that no line tells of
    """

    steps: int
    examples: int
    data: str | None
    gaps: tuple[tuple[int, int], ...]


def read_ledger(path: Path) -> Lines:
    """The lines of a ledger, none where there is none. Damaged ones are left out and named."""
    return read_lines(path, _wrong)


def _wrong(line: Mapping[str, Any]) -> str | None:
    """What keeps a line from being read, in words."""
    extra = {key: check for key, check in _MAYBE.items() if key in line}
    return misfit(line, _ANY) or misfit(line, {**_SHAPES.get(line["event"], {}), **extra})


def _is_sum(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None


def _are_seconds(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_time, value.values()))


def _is_loss(value: Any) -> bool:
    """A number, or what a loss that is none is written as."""
    return (isinstance(value, int | float) and not isinstance(value, bool)) or value in (
        "NaN",
        "Infinity",
        "-Infinity",
    )


def _is_mesh(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_count, value.values()))


def _is_window(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 6 and all(map(is_count, value))


def _are_windows(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_window, value))


def _went_back(value: Any) -> bool:
    return isinstance(value, dict) and misfit(value, {**_DATA, **_count("at", "to", "first_spike")}) is None


def _is_slowest(value: Any) -> bool:
    seconds = dict.fromkeys(("excess", "input", "step", "save", "between"), is_time)
    return isinstance(value, dict) and misfit(value, {"host": is_text, "named": is_switch, **seconds}) is None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def _count(*names: str) -> dict[str, Callable[[Any], bool]]:
    return dict.fromkeys(names, is_count)


_DATA = _count("first_batch", "last_batch", "first_sequence", "last_sequence")
_ANY = {"event": is_text, "time": is_time}
_SHAPES = {
    "start": {
        **_count("attempt", "step", "batch", "hosts", "seed"),
        **dict.fromkeys(("config", "devices"), is_text),
        "mesh": _is_mesh,
    },
    "steps": {"first": is_count, "last": is_count, "data": _is_sum, "seconds": _are_seconds},
    **{event: {"step": is_count} for event in ("saved", "unsaved", "sent", "unsent")},
    "spike": {"step": is_count, "loss": _is_loss, **_DATA},
    "corruption": {"step": is_count, "what": is_text, "where": is_text, "devices": _are_texts},
    "end": {"step": is_count, "status": maybe(is_text), "seconds": _are_seconds},
}
_MAYBE = {"rewound": _went_back, "left_out": _are_windows, "slowest": _is_slowest}
"""Keys that only some lines have."""


def attempts_of(lines: Sequence[Mapping[str, Any]]) -> list[Attempt]:
    """The attempts that the lines of a ledger tell of, in order."""
    found: list[Attempt] = []
    for line in lines:
        if line["event"] == "start":
            found.append(Attempt(line, line["time"], line["step"], None, {}, (), ()))
            continue
        if not found:
            continue
        now = found[-1]
        if line["event"] == "steps":
            now = now._replace(step=line["last"], rows=(*now.rows, line))
        elif line["event"] in ("saved", "unsaved", "sent", "unsent"):
            now = now._replace(**{line["event"]: (*getattr(now, line["event"]), line["step"])})
        elif line["event"] == "spike":
            now = now._replace(spikes=(*now.spikes, line))
        elif line["event"] == "corruption":
            now = now._replace(corrupt=(*now.corrupt, line))
        elif line["event"] == "end":
            now = now._replace(step=line["step"], status=line["status"])
        if line["event"] in ("steps", "end"):
            now = now._replace(last=line["time"], seconds=line["seconds"])
        found[-1] = now
    return found


def goodput_of(attempts: Sequence[Attempt]) -> Goodput | None:
    """Where the time of a run went; None without a first line."""
    if not attempts:
        return None
    seconds = {kind: sum(a.seconds.get(kind, 0.0) for a in attempts) for kind in KINDS}
    seconds |= {"lost": 0.0, "down": 0.0}
    lost = 0
    for one, following in itertools.pairwise(attempts):
        seconds["down"] += max(following.start["time"] - one.last, 0.0)
        again, done = one.step - following.start["step"], one.step - one.start["step"]
        if again > 0 and done > 0:
            lost += again
            # An attempt may have been resumed from before its own start: more than all of it cannot be lost in it.
            part = one.seconds.get("training", 0.0) * min(again / done, 1.0)
            seconds["lost"] += part
            seconds["training"] -= part
    restarts = sum(attempt.went_back is None for attempt in attempts[1:])
    return Goodput(attempts[-1].last - attempts[0].start["time"], seconds, lost, restarts)


def seen_by(folder: Path) -> Seen | None:
    """What the model in a run directory has been trained on; None where no step is told of."""
    files = [folder / file_name(0), *sorted(folder.glob("ledger.*.jsonl"))]
    lives = [attempts_of(read_ledger(file).objects) for file in files]
    if not lives or not lives[0]:
        return None
    until = _until(lives[0])
    counted = [_counted(life, until) for life in lives]
    first = counted[0]
    steps = max((row["last"] for row, _ in first), default=0)
    gaps, at = [], 0
    for row, _ in first:
        if row["first"] > at + 1:
            gaps.append((at + 1, row["first"] - 1))
        at = row["last"]
    hosts = max((attempt.start["hosts"] for attempt in lives[0]), default=1)
    exact = all(row["last"] <= until[number] for rows in counted for row, number in rows)
    whole = not gaps and len(files) >= hosts and exact
    total = sum(int(row["data"], 16) for rows in counted for row, _ in rows) % MODULUS
    batch = lives[0][-1].start["batch"]
    return Seen(steps, steps * batch, f"{total:016x}" if whole else None, tuple(gaps))


def _until(life: Sequence[Attempt]) -> dict[int, int]:
    """Attempt -> its last step that was not done again."""
    starts = [attempt.start["step"] for attempt in life]
    last = [min(starts[i + 1 :], default=attempt.step) for i, attempt in enumerate(life)]
    return {attempt.start["attempt"]: step for attempt, step in zip(life, last, strict=True)}


def _counted(life: Sequence[Attempt], until: Mapping[int, int]) -> list[tuple[Mapping[str, Any], int]]:
    """The lines on steps that count, of any process, each with its attempt."""
    return [
        (row, number)
        for attempt in life
        for row in attempt.rows
        if row["first"] <= until.get(number := attempt.start["attempt"], 0)
    ]
