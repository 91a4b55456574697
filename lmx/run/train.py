"""One training run: from a validated configuration to a trained model, a summary and a sample.

The parts come from below (`build`, `train.loop`, `io`); here they are wired: what happens first, what happens between
steps, and what is said at the end.
"""

from __future__ import annotations

import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from lmx.config.errors import RequestError, Resumable
from lmx.config.overrides import write_value
from lmx.data.windows import batches_without, gone_back, in_force, windows_of
from lmx.io import sinks
from lmx.io.checkpoints import Checkpoints, warm_up
from lmx.io.ledger import attempts_of, file_name, read_lines
from lmx.params import path_name
from lmx.run.build import to_devices
from lmx.run.config import TrainConfig
from lmx.run.hosts import anyhow, of_first, several
from lmx.run.ledger import Ledger
from lmx.run.numbers import Throughput, describe, summary, words_at_end
from lmx.run.observers import observers_of
from lmx.run.origin import keep_origin
from lmx.run.prepare import prepare
from lmx.run.replay import Replay
from lmx.run.roll_call import RollCall
from lmx.run.spikes import ROWS, GoBack, SpikeGuard, abstract_for, adapted, checkpoint_before, told
from lmx.sharding.rows import rows_of_process
from lmx.train.evaluate import Evaluation
from lmx.train.loop import Events, Finished, run_steps
from lmx.train.stop import OUT_OF_TIME, SharedStop, StopRequest, look_at_stop_file
from lmx.types import Batch, TrainState, Tree


def train(composed: Any, run_path: Path, *, resume: bool) -> float:
    """Runs `composed.config` in the run directory `run_path`, and returns the final evaluation loss.

    With `resume`, goes on from the newest valid checkpoint there. Raises RequestError where the parts do not fit
    together (nothing is trained then), Resumable when a signal stopped the run, and `lmx.train.loop.Diverged` when
    the loss stays not finite.
    """
    with SharedStop() if several() else StopRequest() as stop:
        run = Run(composed, run_path, resume=resume)
        try:
            finished = run.steps(stop)
            if finished.stopped not in (None, OUT_OF_TIME):
                run.close("stopped", finished)
                raise Resumable(
                    f"stopped by {finished.stopped} after step {finished.step}; go on with\n"
                    "    " + shlex.join(["lmx", "train", f"resume={write_value(str(run_path))}"])
                )
            return run.close("done", finished)
        except Resumable:
            raise
        except BaseException as error:
            run.abandon(error)
            raise


class Run:
    """A run between its start and its end: the parts, and what happens between steps."""

    def __init__(self, composed: Any, run_path: Path, *, resume: bool) -> None:
        self.began = time.perf_counter()
        ready = prepare(composed, run_path, resume=resume)
        composed = ready.composed
        self.config: TrainConfig = composed.config
        self.total, self.parts, self.dataset = ready.total, ready.parts, ready.dataset
        self.step_program, self.judge, self.dir = ready.step_program, ready.judge, ready.dir
        state = ready.state
        warm_up()
        tree = {**composed.tree, "resume": None, "distributed": anyhow(composed.tree["distributed"])}
        self.start, self.windows = 0, ()
        self.ledger = self._ledger(composed.hash)
        self.spikes = self._spike_guard(run_path)
        self.replay = self._replay()
        self.observers = observers_of(
            self.config, self.parts, run_path, self.ledger, self.spikes, self.replay
        )
        self.checkpoints = Checkpoints(
            run_path / "checkpoints",
            self.config.checkpoint,
            warn=self._warn,
            tell=self.observers.checkpoint,
        )
        self._log: sinks.Sinks | None = None
        if resume:
            state = self._restore()
            self._check_length()
            self.checkpoints.rewind(self.start)
            self.dir.cut_metrics(self.start)
        self.state: TrainState = state  # type: ignore[assignment]
        self.dir.write_config(tree, composed.overrides)
        if self.dir.primary:
            keep_origin(tree, run_path)
        self.meta: dict[str, Any] = {"config": tree, "config_hash": composed.hash}
        self.meta["seed"] = self.config.trainer.seed
        self._log = sinks.Sinks(
            run_path,
            self.config.logging,
            name=self.config.name,
            tree=tree,
            start=self.start,
            total=self.total,
            process=jax.process_index(),
        )
        self.throughput = Throughput.of(self.config, self.parts)
        self.dir.write_summary({"status": "running", "name": self.config.name})
        self.dir.write_provenance(
            config_hash=composed.hash,
            seed=self.config.trainer.seed,
            devices=[str(d) for d in self.parts.mesh.devices.flat],
            hosts=jax.process_count(),
        )
        self.log.say(describe(self.config, self.parts, self.dataset, self.total, self.throughput))
        if resume:
            self.log.say(f"going on after step {self.start}")
        self.step_times: list[float] = []
        self.row: dict[str, Any] = {}
        self.row_written = self.start
        self.evaluated: tuple[int, Evaluation] | None = None
        self.profiling = False
        self._leave_out()
        self.observers.start(self.start, self.total)

    @property
    def log(self) -> sinks.Sinks:
        """Where words and numbers go."""
        assert self._log is not None
        return self._log

    def _spike_guard(self, run_path: Path) -> SpikeGuard | None:
        config, size = self.config.spikes, self.config.trainer.batch_sequences()
        return None if config is None else SpikeGuard(config, run_path, size, lambda text: self.log.say(text))

    def _replay(self) -> Replay | None:
        if self.config.replay is None:
            return None
        return Replay(self.config, self.parts, RollCall(), self.ledger, lambda text: self.log.say(text))

    def _restore(self, known: int | None = None) -> TrainState:
        """The state to go on from; sets the step that it is of, and the batches that are left out after it.

        `known`: a checkpoint that says which form its state has; None: the newest.
        """
        with self.observers.during("restore", 0):
            wanted = self.parts.abstract_state
            restored = self.checkpoints.restore(abstract_for(self.checkpoints, wanted, known))
        self.start = restored.step
        self.windows = in_force(windows_of(restored.meta.get("left_out")), self.noted, self.start)
        return adapted(restored.state, wanted)

    def _leave_out(self) -> None:
        """Notes the batches that are left out where checkpoints, ledger and words are made."""
        if self.windows:
            self.meta["left_out"] = [list(window) for window in self.windows]
        self.ledger.leave_out(self.windows)
        if self.spikes is not None:
            self.spikes.goes_on(self.windows, self.start)

    def _ledger(self, config_hash: str) -> Ledger:
        trainer, mesh = self.config.trainer, self.parts.mesh
        before = attempts_of(read_lines(self.dir.path / file_name(0)))
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
                f"resume={self.dir.path}: the run is at step {self.start} already, of {self.total}; "
                f"to go further set trainer.steps={2 * self.start}"
            )

    def _warn(self, text: str) -> None:
        if self._log is None:
            print(f"WARNING: {text}", file=sys.stderr)
        else:
            self._log.warn(text)

    # ---- steps

    def steps(self, stop: StopRequest) -> Finished:
        """Trains from where the state is to the end, or until stopped; goes back where spikes ask for it."""
        duration = self.config.trainer.duration
        until = None if duration is None else time.perf_counter() + duration
        out_of_time = lambda: until is not None and time.perf_counter() > until
        polled = itertools.count(self.start + 1)  # grows also where the run goes back
        while True:
            try:
                return self._stretch(lambda: stop.reason(next(polled), out_of_time=out_of_time()))
            except GoBack as found:
                back = GoBack(found.at, found.first)  # `found` holds the loop's arrays
            self._go_back(back)

    def _go_back(self, back: GoBack) -> None:
        """To the newest checkpoint from before the spikes, and on without the data read since then."""
        self.checkpoints.wait()
        before = self.windows
        self.checkpoints.rewind(target := checkpoint_before(self.checkpoints, back))
        self.state = self._restore(target)
        self.checkpoints.rewind(self.start)
        self.windows = gone_back(before, at=back.at, to=self.start, since=back.first)
        self.dir.cut_metrics(self.start)
        self.log.rewind(self.start)
        self.ledger.went_back(told(self.windows[-1], self.config.trainer.batch_sequences()), self.windows)
        self._leave_out()
        if self.profiling:
            jax.profiler.stop_trace()
        self.profiling, self.row, self.row_written, self.evaluated = False, {}, self.start, None
        self.observers.rewind(self.start)

    def _stretch(self, stop: Callable[[], str | None]) -> Finished:
        trainer = self.config.trainer
        stream = batches_without(
            self.dataset.train,
            self.windows,
            global_batch_size=trainer.batch_sequences(),
            start_step=self.start,
            rows=rows_of_process(self.parts.batch_sharding).rows(trainer.batch_sequences()),
            workers=trainer.data_workers,
        )
        try:
            finished = run_steps(
                self._step,
                self.state,
                self._on_devices(stream),
                start=self.start,
                end=self.total,
                prefetch=trainer.prefetch,
                max_skipped=trainer.max_skipped,
                events=Events(
                    report=self._report,
                    due=self._due,
                    between=self._between,
                    stop=stop,
                ),
            )
        finally:
            stream.close()  # type: ignore[attr-defined]
        self.state = finished.state
        return finished

    def _on_devices(self, stream: Iterator[Batch]) -> Iterator[Batch]:
        for step in itertools.count(self.start + 1):
            with self.observers.during("input", step):
                batch = next(stream, None)
                if batch is None:
                    return
                batch = self.observers.batch(step, batch)
            yield to_devices(batch, self.parts.batch_sharding)

    def _step(self, state: TrainState, batch: Batch, step: int) -> tuple[TrainState, dict[str, Any]]:
        if self.replay is not None:
            self.replay.before(step, state.params, batch, self.observers)
        with self.observers.during("step", step):
            state, metrics = self.step_program(
                state, batch, norms=_every(self.config.trainer.norms_every, step)
            )
        self.observers.dispatched(step, metrics)
        return state, metrics

    def _report(self, step: int, metrics: dict[str, Any], step_time: float | None) -> None:
        if "time_to_first_step" not in self.meta:
            self.meta["time_to_first_step"] = time.perf_counter() - self.began
        if step_time is not None:
            self.step_times.append(step_time)
        norms = metrics.pop("norms", None)
        self.row = {
            "tokens": step * self.throughput.tokens_per_step,
            **{k: v.tolist() for k, v in metrics.items() if k not in ("skipped", "skipped_run")},
            **self.throughput.rates(_recent(self.step_times, self.config.trainer.log_every)),
            "skipped": int(metrics["skipped"]),
        }
        if norms is not None:
            self.row["norms"] = {kind: _flat(tree) for kind, tree in norms.items()}
        self.observers.report(step, self.row)
        self.log.progress.advance(step)
        if not self._due(step) and self._logged(step):
            self._write_row(step)
        if self.spikes is not None:
            self.spikes.judge(step, self.row)

    def _logged(self, step: int) -> bool:
        regular = step in (1, self.total) or _every(self.config.trainer.log_every, step)
        return regular or any(name in self.row for name in ROWS)

    def _write_row(self, step: int) -> None:
        self.row_written = step
        self.log.scalars(step, self.row)
        self.log.progress.row(step, self.row)

    # ---- between steps

    def _due(self, step: int) -> bool:
        t, profile = self.config.trainer, self.config.trainer.profile
        return (
            _every(t.eval_every, step)
            or _every(t.sample.every, step)
            or self.checkpoints.due(step)
            or (profile is not None and step in (profile.start, profile.start + profile.steps))
            or step == self.total
        )

    def _between(self, step: int, state: TrainState, metrics: dict[str, Any]) -> None:
        trainer = self.config.trainer
        last = step == self.total
        if _every(trainer.eval_every, step) or last:
            self._evaluate(step, state)
        if self.row_written != step and ("eval/loss" in self.row or self._logged(step)):
            self._write_row(step)
        if _every(trainer.sample.every, step) and not last:
            with self.observers.during("sample", step):
                text = self.judge.sample(state)
            self.log.text(step, "sample", text or "")
            self.log.progress.say(f"step {step} sample: {text}")
        if self.checkpoints.due(step):
            self._save(step, state)
            look_at_stop_file()
        self._profile(step)

    def _evaluate(self, step: int, state: TrainState) -> None:
        """Puts evaluation loss and bits per byte into this step's row."""
        with self.observers.during("evaluate", step):
            found = self.judge.evaluate(state)
        self.evaluated = (step, found)
        self.row["eval/loss"] = found.loss
        if found.bits_per_byte is not None:
            self.row["eval/bits_per_byte"] = found.bits_per_byte

    def _save(self, step: int, state: TrainState) -> None:
        metrics = {k: v for k, v in self.row.items() if isinstance(v, int | float)}
        with self.observers.during("save", step):
            self.checkpoints.save(step, state, meta={**self.meta, "step": step}, metrics=metrics)

    def _profile(self, step: int) -> None:
        profile = self.config.trainer.profile
        if profile is None:
            return
        if step == profile.start:
            jax.profiler.start_trace(str(self.dir.path / "profile"))
            self.profiling = True
        elif self.profiling and step >= profile.start + profile.steps:
            jax.profiler.stop_trace()
            self.profiling = False

    # ---- the end

    def close(self, status: str, finished: Finished) -> float:
        """Saves, evaluates and samples as the end of a run asks for; returns the evaluation loss (or NaN)."""
        step, state = finished.step, finished.state
        sample = None
        if status == "done":
            if self.evaluated is None or self.evaluated[0] != step:  # the wall clock ended the run
                self._evaluate(step, state)
                if self.row_written != step:
                    self._write_row(step)
            with self.observers.during("sample", step):
                sample = self.judge.sample(state)
            if sample is not None:
                self.log.text(step, "sample", sample)
        if self.checkpoints.due(step, last=True):
            self._save(step, state)
        self.checkpoints.wait()
        if self.checkpoints.failure is not None:
            self.log.warn(f"the state after step {step} is not saved: {self.checkpoints.failure}")
        if self.profiling:
            jax.profiler.stop_trace()
        found = self.evaluated[1] if self.evaluated else None
        results = self._summary(
            status,
            step,
            loss=self.row.get("loss"),
            eval_loss=found.loss if found else None,
            eval_bits_per_byte=found.bits_per_byte if found else None,
            sample=sample,
        )
        self.dir.write_summary(results)
        self.checkpoints.close()
        self.observers.close(status)
        self._draw()
        self.log.close()
        if status == "done" and self.dir.primary:
            print(words_at_end(results, self.config, sample, self.judge.tokenizer))
        self.dir.close()
        return found.loss if found else float("nan")

    def _summary(self, status: str, step: int, **results: Any) -> dict[str, Any]:
        account = self.ledger.goodput()
        if account is not None and status != "failed":
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

    def _draw(self) -> None:
        if self.config.logging.loss_curve and jax.process_index() == 0:
            from lmx.io.curve import draw_loss

            try:
                draw_loss([self.dir.path], self.dir.path / "loss.png")
            except OSError as error:
                self.log.warn(f"loss.png could not be written: {error}")

    def abandon(self, error: BaseException) -> None:
        """What can still be done when the run fails: pending saves are finished, and the summary says so."""
        step = int(self.row.get("tokens", 0)) // self.throughput.tokens_per_step
        results = self._summary("failed", step, error=f"{type(error).__name__}: {error}")
        # Several processes would wait for each other's parts of a checkpoint, and one of them is gone.
        waiting = () if several() else (self.checkpoints.wait,)
        told = lambda: self.observers.close("failed")
        for ending in (*waiting, told, lambda: self.dir.write_summary(results), self.log.close):
            try:
                ending()
            except Exception as another:  # the first error is the one to report
                print(f"WARNING: while ending the failed run: {another}", file=sys.stderr)


def _every(interval: int | None, step: int) -> bool:
    return interval is not None and step % interval == 0


def _recent(step_times: list[float], n: int) -> float | None:
    """Mean of the last `n` step times, or None before the first was measured."""
    window = step_times[-n:]
    return sum(window) / len(window) if window else None


def _flat(tree: Tree) -> dict[str, Any]:
    """Path -> number, or list of one number a layer."""
    return {path_name(path): leaf.tolist() for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
