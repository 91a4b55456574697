"""`lmx verify faults`: every staged fault ends in the undisturbed run, or with a named error and a resumable run."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.compose import Composed
from lmx.config.errors import FAILED, ConfigError, LmxError
from lmx.faults.acts import repair, staged
from lmx.run.same_run import compare_runs
from lmx.run.trial import Ended, Trial
from lmx.run.verify_faults_config import VerifyFaults

OWN = ("steps", "verify")


class NotSurvived(LmxError):
    """Some fault ends otherwise than it is said to."""

    exit_code = FAILED


class Row(NamedTuple):
    """What became of one fault.

    codes     exit codes of the disturbed start's processes; negative: the signal
    error     what it said, or None where the run came to its end all the same
    seconds   longest that a process outlived the first to end; infinite: it hung, and was killed
    resumed   step that the run went on from, None where it did not have to
    refused   what a start said before the data was repaired, None elsewhere
    verdict   `identical`, or what is wrong
    """

    name: str
    codes: list[int]
    error: str | None
    seconds: float
    resumed: int | None
    refused: str | None
    verdict: str

    @property
    def good(self) -> bool:
        """The fault is survived."""
        return self.verdict == "identical" and math.isfinite(self.seconds)


def own_overrides(config: VerifyFaults) -> list[str]:
    """What is set in every run."""
    return [
        *(f"trainer.{key}=null" for key in ("tokens", "epochs", "duration")),
        f"trainer.steps={config.steps}",
        "trainer.log_every=1",
        f"trainer.eval_every={2 * config.verify.every}",
        "trainer.sample.tokens=0",
        "trainer.sample.every=null",
        f"checkpoint.every={config.verify.every}",
        "checkpoint.keep_last=3",
        "checkpoint.final=true",
        "checkpoint.retry_after=1h",
        "distributed.heartbeat_timeout=30s",
    ]


def tree_of(composed: Composed[VerifyFaults], more: list[str]) -> dict[str, Any]:
    """The configuration of a run with `more` set; ConfigError where there is none."""
    own = [*own_overrides(composed.config), *more]
    replaced = {line.partition("=")[0] for line in own}
    kept = [line for line in composed.overrides if line.partition("=")[0] not in replaced]
    assert composed.composer is not None
    found, problems = composed.composer.check([*kept, *own])
    if found is None:
        raise ConfigError(problems, "verify faults")
    return {key: value for key, value in found.tree.items() if key not in OWN}


class Stage:
    """Runs the faults of one `lmx verify faults`, one after another."""

    def __init__(self, composed: Composed[VerifyFaults], folder: Path) -> None:
        self.composed, self.config, self.folder = composed, composed.config, folder
        self.undisturbed: dict[str, Path] = {}

    def _trial(self, name: str, more: list[str], *, on_shards: bool) -> Trial:
        verify = self.config.verify
        tree = tree_of(self.composed, more)
        if on_shards:
            tree["data"] = self.data()
        return Trial(tree, self.folder / name, devices=verify.devices, timeout=verify.timeout)

    def straight(self, *, on_shards: bool) -> Path:
        """The run that nobody disturbs, on the configuration's data or on shards."""
        name = "undisturbed-on-shards" if on_shards else "undisturbed"
        if name not in self.undisturbed:
            trial = self._trial(name, [], on_shards=on_shards)
            trial.start(self.config.verify.processes)
            ended = trial.wait()
            if any(ended.codes):
                raise NotSurvived(f"the undisturbed run could not be run: {last_words(ended)}")
            self.undisturbed[name] = trial.run
        return self.undisturbed[name]

    def data(self) -> dict[str, Any]:
        """The configuration of the shards: with an experiment, its keys of other data would come in between."""
        assert self.composed.composer is not None
        lines = ["~experiment", "data=tokens", f"data.path={self.shards()}"]
        found, problems = self.composed.composer.check(lines)
        if found is None:
            raise ConfigError(problems, "verify faults")
        return found.tree["data"]

    def shards(self) -> Path:
        """Token shards of this program's own source: data in files that can be damaged while it is read."""
        to = self.folder / "shards"
        if not to.exists():
            source = Path(__file__).parents[1]
            words = ["data", "prepare", "data=text", f"data.path='{source}/**/*.py'", f"to={to}"]
            done = subprocess.run([sys.executable, "-m", "lmx", *words], capture_output=True, text=True)
            if done.returncode:
                raise NotSurvived(f"no shards could be made: {done.stderr.strip()}")
        return to

    def row(self, name: str) -> Row:
        """Stages one fault, goes on where it stopped the run, and compares."""
        verify, lines = self.config.verify, self.config.verify.overrides[name]
        on_shards = "fault=bad_shard" in lines
        expected = self.straight(on_shards=on_shards)
        trial = self._trial(name, [*lines, f"fault.step={verify.at}"], on_shards=on_shards)
        trial.start(verify.processes)
        ended = trial.wait()
        found = Row(name, ended.codes, None, ended.seconds, None, None, "identical")
        if not staged(trial.run):
            return found._replace(verdict="it was never staged: " + last_words(ended))
        if any(ended.codes):
            found = found._replace(error=last_words(ended))
            if on_shards:
                trial.start(verify.processes)
                found = found._replace(refused=last_words(trial.wait()))
                repair(self.shards())
            trial.start(verify.processes)
            again = trial.wait()
            went_on = next((line["start"] for line in trial.seen() if "start" in line), None)
            found = found._replace(resumed=went_on)
            if any(again.codes):
                return found._replace(verdict="it cannot go on: " + last_words(again))
        if on_shards:
            repair(self.shards())
        first = compare_runs(expected, trial.run, tolerance=0.0).first
        return found if first is None else found._replace(verdict=f"differs: {first}")


def verify_faults(composed: Composed[VerifyFaults]) -> dict[str, Any]:
    """Stages each fault; see `docs/trust.md` for the result."""
    folder = Path(tempfile.mkdtemp(prefix="lmx-verify-"))
    rows = []
    try:
        stage = Stage(composed, folder)
        for name in composed.config.verify.rows:
            began = time.monotonic()
            rows.append(stage.row(name))
            print(
                f"lmx verify faults: {name}: {rows[-1].verdict} ({time.monotonic() - began:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    verify = composed.config.verify
    return {
        "survived": all(row.good for row in rows),
        "processes": verify.processes,
        "devices": verify.devices,
        "steps": composed.config.steps,
        "at": verify.at,
        "rows": [{**row._asdict(), "good": row.good} for row in rows],
    }


def check(result: dict[str, Any]) -> None:
    """NotSurvived where some fault is not."""
    bad = [row["name"] for row in result["rows"] if not row["good"]]
    if bad:
        raise NotSurvived(f"not survived: {', '.join(bad)}")


def last_words(ended: Ended) -> str:
    """What the process that failed by itself said last: the first line that begins with `lmx train:`, else the last."""
    order = sorted(range(len(ended.codes)), key=lambda i: (ended.codes[i] not in (1, 2, 75), i))
    for i in order:
        lines = ended.words[i].splitlines()
        named = [line.removeprefix("lmx train: ") for line in lines if line.startswith("lmx train: ")]
        if named:
            return named[0][:300]
    for i in order:
        lines = [
            line
            for line in ended.words[i].splitlines()
            if not line.startswith(("[Gloo]", "lmx: ", "WARNING"))
        ]
        told = [line for line in lines if "oordination service" in line or "UNAVAILABLE" in line] or lines[
            -1:
        ]
        if told:
            return told[0][:300]
    return "no word"
