"""One training run: from a validated configuration to a trained model, a summary and a sample.

The loop comes from below (`train.loop`), the parts are in `OpenRun`; here stands what happens in a step, between steps,
and at the end.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from lmx.config.environment import trimmer
from lmx.config.errors import LmxError, Resumable
from lmx.data.windows import batches_without, gone_back
from lmx.io.progress import duration as readable
from lmx.params import path_name
from lmx.run.again import command_again
from lmx.run.build import to_devices
from lmx.run.hosts import meet, several
from lmx.run.numbers import words_at_end
from lmx.run.open_run import OpenRun
from lmx.run.spikes import ROWS, GoBack, checkpoint_before, told
from lmx.sharding.rows import rows_of_process
from lmx.train.evaluate import Evaluation
from lmx.train.loop import Events, Finished, run_steps
from lmx.train.stop import OUT_OF_TIME, SharedStop, StopRequest, look_at_stop_file
from lmx.types import Batch, TrainState, Tree


def train(composed: Any, run_path: Path, *, resume: bool) -> float:
    """Runs `composed.config` in the run directory `run_path`, and returns the final evaluation loss.

    With `resume`, goes on from the newest valid checkpoint there. Raises RequestError where the parts do not fit
    together (nothing is trained then), Resumable when a signal stopped the run or its last state could not be saved,
    and `lmx.train.loop.Diverged` when the loss stays not finite.
    """
    with SharedStop() if several() else StopRequest() as stop:
        run = Run(composed, run_path, resume=resume)
        try:
            finished = run.steps(stop)
            signalled = finished.stopped not in (None, OUT_OF_TIME)
            loss = run.close("stopped" if signalled else "done", finished)
        except BaseException as error:
            run.abandon(error)
            raise
    again = f"go on with\n    {command_again(run_path)}"
    if signalled:
        raise Resumable(f"stopped by {finished.stopped} after step {finished.step}; {again}")
    if run.checkpoints.failure is not None:
        unsaved = f"trained to step {finished.step}, but its state is not saved; mend that, and"
        if not run.checkpoints.steps():
            raise LmxError(f"{unsaved} start again: no checkpoint is there to go on from")
        raise Resumable(f"{unsaved} {again}")
    return loss


class Run(OpenRun):
    """A run between its start and its end: what happens in a step, between steps, and after the last one."""

    def __init__(self, composed: Any, run_path: Path, *, resume: bool) -> None:
        super().__init__(composed, run_path, resume=resume)
        self.row_written = self.start
        self.nothing_learnt = False
        self.evaluated: tuple[int, Evaluation] | None = None
        self.profiling = False
        self.trim = trimmer()
        self.compiled: set[bool] = set()  # kinds of steps, with norms and without, that every process can do
        self.observers.start(self.start, self.total)

    # ---- steps

    def steps(self, stop: StopRequest) -> Finished:
        """Trains from where the state is to the end, or until stopped; goes back where spikes ask for it."""
        out_of_time = _clock(self.config.trainer.duration)
        polled = itertools.count(self.start + 1)  # grows also where the run goes back
        while True:
            try:
                return self._stretch(lambda: stop.reason(next(polled), out_of_time=out_of_time()))
            except GoBack as found:
                back = GoBack(found.at, found.first)  # `found` holds the loop's arrays
            self._go_back(back)

    def _go_back(self, back: GoBack) -> None:
        """To the newest checkpoint from before the spikes, and on without the data read since then."""
        self.checkpoints.close()
        before = self.windows
        meet(f"back {len(before)}")  # else the others wait in a collective while process 0 sends files
        target = checkpoint_before(self.checkpoints, back)
        self.checkpoints.rewind(target)
        self.checkpoints.catch_up(target)
        self.state = self.restore(target)
        self.windows = gone_back(before, at=back.at, to=self.start, since=back.first)
        self.log.rewind(self.start)
        self.ledger.went_back(told(self.windows[-1], self.config.trainer.batch_sequences()), self.windows)
        self.leave_out()
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
        norms = _every(self.config.trainer.norms_every, step)
        if norms not in self.compiled:
            with self.observers.during("compile", step):
                self.step_program.compile(norms=norms)
                meet(
                    f"compiled {norms=}"
                )  # else those that are done wait in a collective, which gives up sooner
            self.compiled.add(norms)
        if self.replay is not None:
            self.replay.before(step, state.params, batch, self.observers)
        with self.observers.during("step", step):
            state, metrics = self.step_program(state, batch, norms=norms)
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
        if self.row["loss"] == self.row["grad_norm"] == 0 and not self.nothing_learnt:
            self.nothing_learnt = True
            self.log.warn(
                f"step {step}: no token of the batch is learnt, so its loss is 0; are prompts longer than "
                f"trainer.sequence_length={self.config.trainer.sequence_length}? lmx data inspect shows what is learnt"
            )
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
            self.save(step, state)
            look_at_stop_file()
        self._profile(step)
        self.trim()

    def _evaluate(self, step: int, state: TrainState) -> None:
        """Puts evaluation loss and bits per byte into this step's row."""
        with self.observers.during("evaluate", step):
            found = self.judge.evaluate(state)
        self.evaluated = (step, found)
        self.row["eval/loss"] = found.loss
        if found.bits_per_byte is not None:
            self.row["eval/bits_per_byte"] = found.bits_per_byte

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
        """Saves, evaluates and samples as the end of a run asks for; returns the evaluation loss (or NaN).

        A run whose last state could not be saved is recorded as stopped.
        """
        step, state, ended = finished.step, finished.state, status == "done"
        if finished.stopped == OUT_OF_TIME:
            took = readable(self.config.trainer.duration or 0.0)
            self.log.warn(f"trainer.duration={took}: the time is over after step {step} of {self.total}")
        sample = None
        if ended:
            if self.evaluated is None or self.evaluated[0] != step:  # the wall clock ended the run
                self._evaluate(step, state)
                if self.row_written != step:
                    self._write_row(step)
            with self.observers.during("sample", step):
                sample = self.judge.sample(state)
            if sample is not None:
                self.log.text(step, "sample", sample)
        with self.observers.during("finish", step):
            unsaved = self.checkpoints.due(step, last=True)
        if unsaved:
            self.save(step, state)
        self.finish_saving(step)
        if self.checkpoints.failure is not None:
            self.log.warn(f"the state after step {step} is not saved: {self.checkpoints.failure}")
            status = "stopped"
        if self.profiling:
            jax.profiler.stop_trace()
        found = self.evaluated[1] if self.evaluated else None
        results = self.sum_up(
            status,
            step,
            loss=self.row.get("loss"),
            eval_loss=found.loss if found else None,
            eval_bits_per_byte=found.bits_per_byte if found else None,
            sample=sample,
        )
        self.dir.write_summary(results)
        self.observers.close(status)
        self.draw()
        self.log.close()
        if ended and self.dir.primary:
            print(words_at_end(results, self.config, sample, self.judge.tokenizer))
        self.dir.close()
        return found.loss if found else float("nan")


def _clock(seconds: float | None) -> Callable[[], bool]:
    """Whether so much time is over since it was asked first, which is when the first step is under way."""
    until: list[float] = []

    def over() -> bool:
        if seconds is None:
            return False
        now = time.perf_counter()
        if not until:
            until.append(now + seconds)
        return now > until[0]

    return over


def _every(interval: int | None, step: int) -> bool:
    return interval is not None and step % interval == 0


def _recent(step_times: list[float], n: int) -> float | None:
    """Mean of the last `n` step times, or None before the first was measured."""
    window = step_times[-n:]
    return sum(window) / len(window) if window else None


def _flat(tree: Tree) -> dict[str, Any]:
    """Path -> number, or list of one number a layer."""
    return {path_name(path): leaf.tolist() for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
