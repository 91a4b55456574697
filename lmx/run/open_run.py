"""A training run while it is open: its parts and its state, its directory and all that is written there.

`OpenRun` sets a run up, from the start or from a checkpoint, and knows how to save it and to sum it up; what happens
step by step is in `lmx.run.train`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax

from lmx.config.errors import RequestError
from lmx.data.windows import in_force, windows_of
from lmx.io import sinks
from lmx.io.checkpoints import Checkpoints, warm_up
from lmx.io.ledger import WORTH_TELLING, attempts_of, file_name, read_ledger
from lmx.io.provenance import changed_versions
from lmx.io.records import read_provenance
from lmx.io.remote import Remote, place_of
from lmx.run.announce import Announced
from lmx.run.config import TrainConfig
from lmx.run.hosts import anyhow, of_first, several
from lmx.run.ledger import Ledger
from lmx.run.numbers import Throughput, describe, summary
from lmx.run.observers import observers_of
from lmx.run.origin import keep_origin
from lmx.run.prepare import prepare
from lmx.run.replay import Replay
from lmx.run.roll_call import RollCall
from lmx.run.spikes import SpikeGuard, abstract_for, adapted
from lmx.sharding.rows import rows_of_process
from lmx.types import TrainState


class OpenRun:
    """What a run has from its start to its end.

    start, total   the step that it goes on after (0: from the beginning), and the last one
    state          parameters, optimizer's state and counters after `start`
    step_times     seconds of every measured step
    row            the numbers of the newest step whose numbers are here
    """

    def __init__(self, composed: Any, run_path: Path, *, resume: bool) -> None:
        self.began = time.perf_counter()
        with sinks.overheard() as self._early:
            ready = prepare(composed, run_path, resume=resume)
        composed = ready.composed
        self.config: TrainConfig = composed.config
        self.total, self.parts, self.dataset = ready.total, ready.parts, ready.dataset
        self.step_program, self.judge, self.dir = ready.step_program, ready.judge, ready.dir
        warm_up()
        self.start, self.windows = 0, ()
        self.ledger = self._ledger(composed.hash)
        self.spikes, self.replay = self._spike_guard(), self._replay()
        self.observers = observers_of(
            self.config, self.parts, run_path, self.ledger, self.spikes, self.replay
        )
        self._log: sinks.Sinks | None = None
        self.checkpoints = Checkpoints(
            run_path / "checkpoints",
            self.config.checkpoint,
            remote=self._remote(resume=resume),
            agree=Announced("save") if several() else None,
            warn=self._warn,
            tell=self.observers.checkpoint,
        )
        self.state: TrainState = self.restore() if resume else ready.state  # type: ignore[assignment]
        self.throughput = Throughput.of(self.config, self.parts)
        self.step_times: list[float] = []
        self.row: dict[str, Any] = {}
        starts = read_provenance(run_path) if resume and self.dir.primary else []
        changed = changed_versions(starts[-1]) if starts else None
        self._write_start(composed)
        self.log.say(describe(self.config, self.parts, self.dataset, self.total, self.throughput))
        if resume:
            self.log.say(f"going on after step {self.start}")
        if changed:
            self.log.say(changed)
        self.leave_out()

    def _remote(self, *, resume: bool) -> Remote | None:
        """The remote tier, which process 0 sends to and brings from for all: they share the run directory."""
        tier = self.config.checkpoint.remote
        if tier is None or not self.dir.primary:
            return None
        return Remote(place_of(self.dir.path, tier.path, resume=resume, say=self._warn))

    def _spike_guard(self) -> SpikeGuard | None:
        config, size = self.config.spikes, self.config.trainer.batch_sequences()
        say = lambda text: self.log.say(text)
        return None if config is None else SpikeGuard(config, self.dir.path, size, say)

    def _replay(self) -> Replay | None:
        if self.config.replay is None:
            return None
        return Replay(self.config, self.parts, RollCall(), self.ledger, lambda text: self.log.say(text))

    def leave_out(self) -> None:
        """Notes the batches that are left out where checkpoints, ledger and words are made."""
        if self.windows:
            self.meta["left_out"] = [list(window) for window in self.windows]
        self.ledger.leave_out(self.windows)
        if self.spikes is not None:
            self.spikes.goes_on(self.windows, self.start)

    def restore(self, known: int | None = None) -> TrainState:
        """The state of the newest valid checkpoint; what was written of later steps is taken away.

        Sets the step that it is of, and the batches that are left out after it. `known`: a checkpoint that says which
        form its state has; None: the newest.
        """
        with self.observers.during("restore", 0):
            wanted = self.parts.abstract_state
            restored = self.checkpoints.restore(abstract_for(self.checkpoints, wanted, known))
        self.start = restored.step
        self.windows = in_force(windows_of(restored.meta.get("left_out")), self.noted, self.start)
        self._check_length()
        self.checkpoints.rewind(self.start)
        self.checkpoints.catch_up(self.start)
        self.dir.cut_metrics(self.start)
        return adapted(restored.state, wanted)

    def _write_start(self, composed: Any) -> None:
        """Configuration, provenance, and the first lines in every sink."""
        tree = {**composed.tree, "resume": None, "distributed": anyhow(composed.tree["distributed"])}
        self.meta: dict[str, Any] = {"config": tree, "config_hash": composed.hash}
        self.meta["seed"] = self.config.trainer.seed
        self.dir.write_config(tree, composed.overrides)
        if self.dir.primary:
            keep_origin(tree, self.dir.path)
        self.dir.write_summary({"status": "running", "name": self.config.name})
        self.dir.write_provenance(
            config_hash=composed.hash,
            seed=self.config.trainer.seed,
            devices=[str(d) for d in self.parts.mesh.devices.flat],
            hosts=jax.process_count(),
        )
        self._log = sinks.Sinks(
            self.dir.path,
            self.config.logging,
            name=self.config.name,
            tree=tree,
            start=self.start,
            total=self.total,
            process=jax.process_index(),
        )
        for text in self._early:
            self._log.was_warned(text)

    @property
    def log(self) -> sinks.Sinks:
        """Where words and numbers go."""
        assert self._log is not None
        return self._log

    def _ledger(self, config_hash: str) -> Ledger:
        trainer, mesh = self.config.trainer, self.parts.mesh
        before = attempts_of(read_ledger(self.dir.path / file_name(0)).objects)
        noted = json.dumps(before[-1].start.get("left_out", []) if before else [])
        self.noted = windows_of(json.loads(of_first(noted)))
        facts = {
            "attempt": int(of_first(str(len(before)))),
            "batch": trainer.batch_sequences(),
            "config": config_hash,
            "seed": trainer.seed,
            "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
            "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
            "hosts": jax.process_count(),
        }
        return Ledger(
            self.dir.path,
            facts,
            rows_of_process(self.parts.batch_sharding).rows(trainer.batch_sequences()),
            every=trainer.log_every,
            began=time.time() - (time.perf_counter() - self.began),
            process=jax.process_index(),
            warn=self._warn,
        )

    def _check_length(self) -> None:
        """RequestError when a resumed run is done already, or past the length now asked for."""
        done = self.dir.read_summary().get("status") == "done"
        if self.start > self.total or (self.start == self.total and done):
            self.dir.close()
            raise RequestError(
                f"resume={self.dir.path}: the run has done {self.start} steps already, and {self.total} are asked "
                f"for; to go further set trainer.steps={2 * self.start}"
            )

    def _warn(self, text: str) -> None:
        if self._log is None:
            self._early.append(text)
            print(f"WARNING: {text}", file=sys.stderr)
        else:
            self._log.warn(text)

    def save(self, step: int, state: TrainState) -> None:
        """A checkpoint of `state`, after `step`."""
        metrics = {k: v for k, v in self.row.items() if isinstance(v, int | float)}
        with self.observers.during("save", step):
            self.checkpoints.save(step, state, meta={**self.meta, "step": step}, metrics=metrics)

    def finish_saving(self, step: int) -> None:
        """Waits until the last checkpoint is whole; `step` is the run's last."""
        with self.observers.during("finish", step):
            away = self.checkpoints.close()
        if away:
            assert self.config.checkpoint.remote is not None
            self.log.warn(
                f"the checkpoints of steps {', '.join(map(str, away))} are in {self.checkpoints.directory} alone, "
                f"not at {self.config.checkpoint.remote.path}; keep the run directory"
            )

    def sum_up(self, status: str, step: int, **results: Any) -> dict[str, Any]:
        """The contents of summary.json; goodput is said."""
        account = self.ledger.goodput()
        if account is not None and status != "failed" and account.wall >= WORTH_TELLING:
            self.log.say(account.words())
        return summary(
            self.config,
            self.parts,
            self.throughput,
            status=status,
            step=step,
            step_times=self.step_times,
            **results,
            skipped=self.row.get("skipped", 0),
            **({} if self.spikes is None else self.spikes.results(self.row)),
            time_to_first_step=self.meta.get("time_to_first_step"),
            wall_time=time.perf_counter() - self.began,
            run_dir=str(self.dir.path),
            goodput=account.as_json() if account else None,
        )

    def draw(self) -> None:
        """loss.png, where it is asked for."""
        if self.config.logging.loss_curve and jax.process_index() == 0:
            from lmx.io.curve import draw_loss

            try:
                draw_loss([self.dir.path], self.dir.path / "loss.png")
            except OSError as error:
                self.log.warn(f"loss.png could not be written: {error}")

    def abandon(self, error: BaseException) -> None:
        """What can still be done when the run fails: pending saves are finished, and the summary says so."""
        step = int(self.row.get("tokens", 0)) // self.throughput.tokens_per_step
        results = self.sum_up("failed", step, error=f"{type(error).__name__}: {error}")
        # Several processes would wait for each other's parts of a checkpoint, and one of them is gone.
        waiting = () if several() else (lambda: self.finish_saving(step),)
        told = lambda: self.observers.close("failed")
        for ending in (*waiting, told, lambda: self.dir.write_summary(results), self.log.close):
            try:
                ending()
            except Exception as another:  # the first error is the one to report
                print(f"WARNING: while ending the failed run: {another}", file=sys.stderr)
