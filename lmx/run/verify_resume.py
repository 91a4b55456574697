"""`lmx verify resume`: runs killed at random moments and resumed, each compared with one that nobody disturbed."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.compose import Composed
from lmx.config.errors import FAILED, ConfigError, LmxError
from lmx.review.target import Target
from lmx.run.outline import outline
from lmx.run.same_run import Comparison, compare_runs, last_checkpoint
from lmx.run.trial import Ended, Trial
from lmx.run.verify_resume_config import VerifyResume

OWN = ("steps", "kills", "seed", "verify")
PHASES = ("step", "save", "written", "start", "restore")
DEAD_HOST_S = 60.0
"""How long the other processes may outlive one."""


class NotExact(LmxError):
    """A resumed run is another than the undisturbed one, or could not be had."""

    exit_code = FAILED


class Kill(NamedTuple):
    """When a start of a run is killed: `delay` seconds after it is at `phase` of step `step` (0: of any).

    phase `start` counts from the start of the process. `all`: all its processes, else the one numbered `victim`.
    """

    phase: str
    step: int
    delay: float
    all: bool
    victim: int


class Resumed(NamedTuple):
    """What became of a run that was killed.

    place, to     where it was killed, and where it then went on
    kills         phase -> how many
    lost          resumes that did not go on from the newest checkpoint that was whole when the run was killed
    ends          longest that a process outlived another, seconds
    problem       why there is nothing to compare, or None
    """

    place: str
    to: str
    kills: dict[str, int]
    lost: list[str]
    ends: float
    comparison: Comparison | None
    problem: str | None

    @property
    def good(self) -> bool:
        """Nothing lost, nothing different."""
        equal = self.comparison is not None and not self.comparison.differences
        return equal and self.problem is None and not self.lost


def tree_of(composed: Composed[VerifyResume], place: str) -> dict[str, Any]:
    """The configuration of the runs that begin at a place; ConfigError where it has none, or one that does not fit."""
    config = composed.config
    own = [
        *(f"trainer.{key}=null" for key in ("tokens", "epochs", "duration")),
        f"trainer.steps={config.steps}",
        "trainer.log_every=1",
        f"trainer.eval_every={2 * config.verify.every}",
        "trainer.sample.tokens=0",
        "trainer.sample.every=null",
        f"checkpoint.every={config.verify.every}",
        "checkpoint.final=true",
        "distributed.heartbeat_timeout=30s",
        *([f"mesh={config.verify.mesh}"] if place == "mesh" else []),
    ]
    replaced = {line.partition("=")[0] for line in own}
    kept = [line for line in composed.overrides if line.partition("=")[0] not in replaced]
    assert composed.composer is not None
    found, problems = composed.composer.check([*kept, *own])
    if found is None:
        raise ConfigError(problems, f"verify resume, place {place}")
    devices, processes = config.verify.devices, config.verify.processes[place]
    try:
        outline(found.config, Target(f"cpu:{devices}", None, devices, processes))
    except ConfigError as error:
        unfit = place == "mesh" and config.verify.mesh != "hsdp"
        problems = [replace(one, fix="verify.mesh=hsdp" if unfit else one.fix) for one in error.problems]
        raise ConfigError(problems, f"verify resume, place {place}") from None
    return {key: value for key, value in found.tree.items() if key not in OWN}


class Bench:
    """Runs the trials of one `lmx verify resume`, one after another."""

    def __init__(self, composed: Composed[VerifyResume], folder: Path) -> None:
        self.config, self.folder = composed.config, folder
        verify = self.config.verify
        killed = [place for place, share in verify.killed.items() if share]
        moved = [place for place, others in verify.moved.items() if others]
        reached = [to for others in verify.moved.values() for to in others]
        self.trees = {place: tree_of(composed, place) for place in dict.fromkeys([*killed, *moved, *reached])}
        self.random = random.Random(self.config.seed)
        self.straight: dict[str, Path] = {}
        self.wall: dict[str, float] = {}
        self.phases: list[str] = []
        self.number = 0

    def _trial(self, place: str) -> Trial:
        self.number += 1
        verify = self.config.verify
        run = self.folder / f"{self.number:03d}-{place}"
        return Trial(self.trees[place], run, devices=verify.devices, timeout=verify.timeout)

    def undisturbed(self, place: str) -> Path:
        """The run directory of a place's straight run; LmxError where it cannot be run."""
        if place not in self.straight:
            for _ in range(2):  # the second finds its programs compiled, and says how long a run takes
                trial = self._trial(place)
                trial.start(self.config.verify.processes[place])
                ended = trial.wait()
                if any(ended.codes):
                    raise NotExact(f"the undisturbed run ({place}) could not be run: {_last_words(ended)}")
            self.straight[place], self.wall[place] = trial.run, time.monotonic() - trial.began
            say(f"undisturbed, {place}: {self.wall[place]:.1f} s")
        return self.straight[place]

    def plan_kill(self, place: str, done: int) -> Kill:
        """A random moment of a start that goes on after step `done`."""
        chance, steps = self.random, self.config.steps
        phase, every = self._next_phase(can_restore=done > 0), self.config.verify.every
        step = chance.randint(done + 1, min(done + 2 * every, steps))  # soon: there are more kills to come
        if phase in ("save", "written"):
            step = min(-(-step // every) * every, steps)
        longest = {
            "start": self.wall.get(place, 3.0),
            "step": 0.05,
            "save": 0.1,
            "written": 0.02,
            "restore": 0.15,
        }
        processes = self.config.verify.processes[place]
        return Kill(
            phase,
            0 if phase in ("start", "restore") else step,
            chance.uniform(0, longest[phase]),
            chance.random() < 0.5,
            chance.randrange(processes),
        )

    def _next_phase(self, *, can_restore: bool) -> str:
        """All phases in random order, again and again."""
        if not self.phases:
            self.phases = self.random.sample(PHASES, len(PHASES))
        found = next((p for p in self.phases if can_restore or p != "restore"), "step")
        if found in self.phases:
            self.phases.remove(found)
        return found

    def kill(self, trial: Trial, kill: Kill) -> Ended | None:
        """Kills a started run as planned; None where it came to its end before."""
        if kill.phase == "written":
            met = lambda line: line.get("checkpoint") == "written" and line["step"] >= kill.step
        else:
            met = lambda line: line.get("begin") == kill.phase and line["step"] >= kill.step
        if kill.phase != "start" and not trial.wait_for(lambda: any(met(line) for line in trial.seen())):
            return self._end_early(trial)
        time.sleep(kill.delay)
        if not trial.alive():
            return self._end_early(trial)
        trial.signal(range(len(trial.children)) if kill.all else [kill.victim])
        return trial.wait(DEAD_HOST_S)

    def _end_early(self, trial: Trial) -> None:
        trial.wait()

    def disturbed(self, place: str, kills: int) -> Resumed:
        """One run that is killed up to `kills` times, and compared in the end."""
        processes = self.config.verify.processes[place]
        trial, counts, lost, ends = self._trial(place), {}, [], 0.0
        expected = None
        trial.start(processes)
        for _ in range(kills):
            kill = self.plan_kill(place, expected or 0)
            ended = self.kill(trial, kill)
            lost += self._lost(trial, expected)
            if ended is None or -signal.SIGKILL not in ended.codes:
                break  # it came to its end before
            counts[kill.phase] = counts.get(kill.phase, 0) + 1
            ends = max(ends, ended.seconds)
            if trial.done():
                break  # killed after its end: this start has been looked at
            expected = last_checkpoint(trial.run)
            trial.start(processes)
        return self._finish(trial, place, place, counts, lost, ends, expected)

    def moved(self, place: str, to: str) -> Resumed:
        """One run that is killed at one place, half way, and goes on at another."""
        self.undisturbed(place)
        trial, processes = self._trial(place), self.config.verify.processes
        trial.start(processes[place])
        half = self.config.steps // 2
        trial.wait_for(
            lambda: any(x.get("checkpoint") == "saved" and x["step"] >= half for x in trial.seen())
        )
        trial.signal(range(len(trial.children)))
        ended = trial.wait(DEAD_HOST_S)
        expected = last_checkpoint(trial.run)
        mesh = [f"mesh={self.config.verify.mesh}"] if to == "mesh" else []
        trial.start(processes[to], mesh)
        return self._finish(trial, place, to, {"saved": 1}, [], ended.seconds, expected)

    def _lost(self, trial: Trial, expected: int | None) -> list[str]:
        """Whether the newest start went on from where it had to."""
        went_on = [line["start"] for line in trial.seen() if "start" in line]
        if went_on and went_on[0] != (expected or 0):
            return [f"{trial.run.name}, start {trial.starts}: after step {went_on[0]}, {expected} was saved"]
        return []

    def _finish(
        self,
        trial: Trial,
        place: str,
        to: str,
        counts: dict[str, int],
        lost: list[str],
        ends: float,
        expected: int | None,
    ) -> Resumed:
        ended = trial.wait()
        found = Resumed(place, to, counts, lost + self._lost(trial, expected), ends, None, None)
        if any(ended.codes) and not trial.done():
            return found._replace(problem=f"start {trial.starts}: {_last_words(ended)}")
        tolerance = 0.0 if place == to else self.config.verify.tolerance
        comparison = compare_runs(self.undisturbed(place), trial.run, tolerance=tolerance)
        if not comparison.differences:
            shutil.rmtree(trial.run)
        return found._replace(comparison=comparison)


def verify_resume(composed: Composed[VerifyResume]) -> dict[str, Any]:
    """Runs, kills, resumes and compares; see `docs/trust.md` for the result.

    ConfigError where a place has no configuration, LmxError where an undisturbed run cannot be run.
    """
    config = composed.config
    folder = Path(tempfile.mkdtemp(prefix="lmx-verify-"))
    rows: list[Resumed] = []
    try:
        bench = Bench(composed, folder)
        shares = {place: share for place, share in config.verify.killed.items() if share}
        left = dict(zip(shares, _shares(config.kills, list(shares.values())), strict=True))
        for place, wanted in left.items():
            bench.undisturbed(place)
            while wanted > 0:
                row = bench.disturbed(place, min(wanted, config.verify.kills_per_run))
                if row.good and not row.kills:  # its kill was due after its end: it proves nothing
                    continue
                wanted -= sum(row.kills.values())
                rows.append(row)
                say(f"{place}: {_kills(row)}, {_verdict(row)}; {wanted} kills to come")
        for place, places in config.verify.moved.items():
            for to in places:
                rows.append(bench.moved(place, to))
                say(f"from {place} to {to}: {_verdict(rows[-1])}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report(config, rows)


def _shares(total: int, shares: list[int]) -> list[int]:
    """`total` split as `shares` are to each other; the first gets what is left."""
    parts = [total * share // sum(shares) for share in shares]
    return [parts[0] + total - sum(parts), *parts[1:]]


def report(config: VerifyResume, rows: list[Resumed]) -> dict[str, Any]:
    """The result as plain data: what was done, what was compared, and the verdict."""
    kills: dict[str, int] = {}
    for row in rows:
        for phase, count in row.kills.items():
            kills[phase] = kills.get(phase, 0) + count
    wrong = [row for row in rows if not row.good]
    return {
        "exact": not wrong,
        "steps": config.steps,
        "seed": config.seed,
        "tolerance": config.verify.tolerance,
        "kills": kills,
        "runs": len(rows),
        "wrong": len(wrong),
        "lost": [line for row in rows for line in row.lost],
        "dead_host_s": max((row.ends for row in rows), default=0.0),
        "rows": [
            {
                "killed": row.place,
                "resumed": row.to,
                "kills": row.kills,
                "bit_for_bit": row.place == row.to,
                "compared": None if row.comparison is None else row.comparison.counts,
                "worst": None if row.comparison is None else row.comparison.worst,
                "first": _first(row),
            }
            for row in rows
        ],
    }


def check(result: dict[str, Any]) -> None:
    """NotExact where something differs, with the first difference."""
    if result["exact"]:
        return
    row = next(row for row in result["rows"] if row["first"] is not None)
    raise NotExact(f"a run killed at {row['killed']} and resumed at {row['resumed']}: {row['first']}")


def _first(row: Resumed) -> str | None:
    if row.problem is not None or row.lost:
        return row.problem or row.lost[0]
    assert row.comparison is not None
    return None if row.comparison.first is None else str(row.comparison.first)


def _kills(row: Resumed) -> str:
    return f"{sum(row.kills.values())} kills"


def _verdict(row: Resumed) -> str:
    return ("equal" if row.place == row.to else "equal up to noise") if row.good else f"WRONG: {_first(row)}"


def _last_words(ended: Ended) -> str:
    worst = next((i for i, code in enumerate(ended.codes) if code not in (0, -6)), 0)
    words = ended.words[worst].splitlines()[-3:]
    return f"exit codes {ended.codes}: {' / '.join(words) or 'no word'}"


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"lmx verify resume: {text}", file=sys.stderr, flush=True)
