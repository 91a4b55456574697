"""The driver of a sweep: leases pending jobs to free pods, sees how they end, and decides what happens next.

It may be killed at any moment. All it knows is on disk before it acts: a lease is recorded before the job starts, an
end before the pod is free. A new driver finds the attempts of the old one, still running or ended.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import yaml

from lmx.config.errors import DONE, FAILED, STOPPED, WRONG_REQUEST
from lmx.config.text import counted
from lmx.io.files import write_atomic
from lmx.sweep.config import Retries
from lmx.sweep.enlist import HERE
from lmx.sweep.events import ACTIVE, ENDED, Event, Log, State, read_events, states
from lmx.sweep.order import Program, nearest, program_of
from lmx.sweep.plan import Job, Plan, attempt_dir, job_dir, run_dir
from lmx.sweep.pods import Ended, Pod, in_words, last_words
from lmx.sweep.target_pod import TargetPod, attached, release

Say = Callable[[str], None]
_LOSSES = 3


class Hooks(NamedTuple):
    """What a driver asks others.

    result(job)          the job's result where it is done and valid, else None
    losing(driver)       numbers of running jobs that are not worth going on with
    say(text)            a line for people
    step(job)            the step of its newest checkpoint, None where there is none
    again                the command that goes on with the sweep
    """

    result: Callable[[Job], Mapping[str, Any] | None]
    losing: Callable[[Driver], Sequence[int]]
    say: Say
    step: Callable[[Job], int | None]
    again: str


class Driver:
    """One process's work on a sweep, between `__init__` (takes the lock) and `close`."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        *,
        pods: Sequence[Pod],
        retries: Retries,
        hooks: Hooks,
        poll: float,
    ) -> None:
        """`pods` take new jobs. RequestError where a driver works."""
        self.folder, self.plan, self.retries, self.hooks, self.poll = folder, plan, retries, hooks, poll
        self.log = Log(folder)
        self.jobs = {job.number: job for job in plan.jobs}
        self.pods = {pod.name: pod for pod in pods}
        self.known: dict[str, Pod] = dict(self.pods)
        self.away: dict[str, str] = {}
        self.ran: dict[str, Program] = {}
        self.programs = {job.number: program_of(job) for job in plan.jobs}
        self.states: dict[int, State] = states(self.jobs, read_events(folder))
        self.losses = dict.fromkeys(self.pods, 0)
        self.stopping: dict[int, tuple[float, str]] = {}
        self.signal: int | None = None
        self._recover()

    def close(self) -> None:
        """Gives the lock back."""
        self.log.close()

    def _event(self, job: int, status: Any, **facts: Any) -> None:
        state = self.states[job]
        event = Event(
            job, status, attempt=facts.pop("attempt", state.attempt), pod=facts.pop("pod", state.pod), **facts
        )
        self.log.write(event)
        state.apply(event)

    # ---- after another driver

    def _recover(self) -> None:
        """Decides again what was not decided: ended jobs without a valid result, attempts that failed."""
        (self.folder / "cancel").unlink(missing_ok=True)
        for number, state in self.states.items():
            if state.status == "DONE" and self.hooks.result(self.jobs[number]) is None:
                self._event(
                    number, "PENDING", reason="its result is no longer there, or is of another configuration"
                )
            elif state.status in ("FAILED", "PREEMPTED"):
                self._decide(number)

    # ---- the loop

    def run(self) -> int:
        """Works until every job has ended, or until told to stop; the exit code."""
        before = {n: signal.signal(n, self._handle) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            while True:
                self._look()
                if self.signal is not None or (self.folder / "cancel").exists():
                    self._stop_all()
                    if not self.active():
                        return self._leave()
                elif all(state.status in ENDED for state in self.states.values()):
                    return self._finish()
                else:
                    for number in self.hooks.losing(self):
                        self._prune(number)
                    self._lease()
                    if not self.pods and not self.active():
                        self._release()
                        self.hooks.say(f"no pod is left; go on with another pool:\n    {self.hooks.again}")
                        return FAILED
                time.sleep(self.poll)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def active(self) -> list[int]:
        """Jobs that are leased or run."""
        return [number for number, state in self.states.items() if state.status in ACTIVE]

    def _look(self) -> None:
        """Records what has become of the active jobs."""
        for number in self.active():
            state = self.states[number]
            folder = attempt_dir(self.folder, number, state.attempt)
            pod = self._pod_of(number)
            ended = pod.poll(folder)
            if ended is not None:
                self._ended(number, ended)
                if ended.code is None:
                    self._count_loss(state.pod or "", folder, ended.began)
            elif state.status == "LEASED" and (folder / "pid").exists():
                self._event(number, "RUNNING")
            elif number in self.stopping and time.time() > self.stopping[number][0] + self.retries.grace:
                pod.stop(folder, force=True)

    def _pod_of(self, number: int) -> Pod:
        """Where a job runs: a pod of this driver, or of an earlier one."""
        state = self.states[number]
        folder, name = attempt_dir(self.folder, number, state.attempt), state.pod or ""
        found = self.known.get(name)
        if found is None or (folder / "launched").exists() != isinstance(found, TargetPod):
            found = self.known[name] = attached(name, folder)
        return found

    def _ended(self, number: int, ended: Ended) -> None:
        state, job, code = self.states[number], self.jobs[number], ended.code
        step = self.hooks.step(job) if ended.step is None else ended.step
        _, why = self.stopping.pop(number, (0.0, None))
        pruned = (job_dir(self.folder, number) / "stop").exists()
        if self.hooks.result(job) is not None:
            self._event(number, "DONE", exit_code=code, step=step)
            self.losses[state.pod or ""] = 0
        elif code == DONE:
            self._event(
                number, "FAILED", exit_code=code, step=step, reason="it ended well, but left no valid result"
            )
        elif pruned and code == STOPPED:
            self._event(number, "PRUNED", exit_code=code, step=step, reason="behind the others")
        elif why is not None:
            self._event(number, "PREEMPTED", exit_code=code, step=step, reason=why, counts=False)
        elif code is None or code == STOPPED or code > 128:
            why = ended.reason or in_words(code)
            self._event(number, "PREEMPTED", exit_code=code, step=step, reason=why, counts=ended.began)
        else:
            why = ended.reason or last_words(attempt_dir(self.folder, number, state.attempt) / "log.txt")
            self._event(number, "FAILED", exit_code=code, step=step, reason=why)
        self._say(number)
        if state.status in ("FAILED", "PREEMPTED"):
            self._decide(number)

    def _count_loss(self, pod: str, folder: Path, began: bool) -> None:
        self.losses[pod] = self.losses.get(pod, 0) + 1
        if pod in self.pods:
            self.pods[pod].lost(folder)
        if pod in self.pods and self.losses[pod] >= _LOSSES and (len(self.pods) > 1 or not began):
            del self.pods[pod]
            self.hooks.say(f"pod {pod} lost {_LOSSES} jobs one after the other and gets no more")

    def _decide(self, number: int) -> None:
        """Whether a job that did not end well is tried again."""
        state, limits = self.states[number], self.retries
        if state.exit_code == WRONG_REQUEST:
            reason = state.reason
        elif state.failures > limits.max_failures:
            reason = f"{state.reason}; retries.max_failures={limits.max_failures} is used up"
        elif state.preemptions > limits.max_preemptions:
            reason = f"{state.reason}; retries.max_preemptions={limits.max_preemptions} is used up"
        else:
            self._event(number, "PENDING", reason=state.reason)
            return
        if state.status != "FAILED":
            self._event(number, "FAILED", exit_code=state.exit_code, reason=reason)

    def _lease(self) -> None:
        """Gives pending jobs to free pods."""
        busy = {self.states[number].pod for number in self.active()}
        waiting = [n for n in self.plan.order if self.states[n].status == "PENDING"]
        for pod in self._free(busy):
            storages = {p.storage for p in self.pods.values()}
            free = [
                n for n in waiting if self._kept(n) in (None, pod.storage) or self._kept(n) not in storages
            ]
            elsewhere = [ran for name, ran in self.ran.items() if name != pod.name and name in self.pods]
            number = nearest(free, self.programs, self.ran.get(pod.name), elsewhere)
            if number is not None:
                waiting.remove(number)
                self._start(number, pod)

    def _free(self, busy: set[str | None]) -> list[Pod]:
        """The pods that take a job now. One that has been away for too long gets no more."""
        free: list[Pod] = []
        for pod in [p for p in self.pods.values() if p.name not in busy]:
            state, told = pod.state(), self.away.pop(pod.name, None)
            if state == "ready":
                free.append(pod)
                if told is not None:
                    self.hooks.say(f"pod {pod.name} is ready")
            elif state == "gone":
                self.hooks.say(f"pod {pod.name} is not there and gets no more jobs: {pod.why}")
                del self.pods[pod.name]
            else:
                self.away[pod.name] = pod.why
                if told != pod.why:
                    reason = f": {pod.why}" if pod.why else ""
                    self.hooks.say(f"pod {pod.name} gets no job until it is ready{reason}")
        return free

    def _kept(self, number: int) -> str | None:
        """The storage of a job's checkpoint; None where it has none, and may begin anywhere."""
        if not self.states[number].step:
            return None
        return _read(job_dir(self.folder, number) / "storage") or HERE

    def _start(self, number: int, pod: Pod) -> None:
        state = self.states[number]
        attempt, anew = state.attempt + 1, None
        kept = self._kept(number)
        if kept not in (None, pod.storage):
            anew = 0
            self.hooks.say(
                f"job {number} begins anew on {pod.name}: its checkpoint (step {state.step}) is on {kept}, "
                "which no pod reaches any more"
            )
        folder = attempt_dir(self.folder, number, attempt)
        self.ran[pod.name] = self.programs[number]
        self._event(number, "LEASED", attempt=attempt, pod=pod.name, step=anew)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            job = self.jobs[number]
            write_atomic(folder.parent / "config.yaml", _yaml(job.config))
            write_atomic(folder.parent / "overrides.yaml", _yaml(job.overrides))
            run = run_dir(self.folder, number)
            pod.start(folder, self.plan.program, folder.parent, run.resolve() if run.is_symlink() else run)
        except OSError as error:
            self._event(number, "PREEMPTED", reason=f"pod {pod.name}: {error}", counts=False)
            self._event(number, "PENDING")
            del self.pods[pod.name]
            self.hooks.say(f"pod {pod.name} cannot start jobs and gets no more: {error}")
        else:
            self._say(number)

    # ---- stopping jobs

    def _prune(self, number: int) -> None:
        """Asks a job to end at its next checkpoint."""
        stop = job_dir(self.folder, number) / "stop"
        if not stop.exists():
            write_atomic(stop, "behind the others\n")
            self.hooks.say(f"job {number}: behind the others; it ends at its next checkpoint")

    def _stop_all(self) -> None:
        why = "cancelled" if (self.folder / "cancel").exists() else "the driver was told to stop"
        for number in self.active():
            if number not in self.stopping:
                self.stopping[number] = (time.time(), why)
                folder = attempt_dir(self.folder, number, self.states[number].attempt)
                self._pod_of(number).stop(folder, force=False)

    def _release(self) -> None:
        """Gives back what pods were made of."""
        for pod in self.known.values():
            pod.leave()
        for words in release(self.folder):
            self.hooks.say(words)

    def _leave(self) -> int:
        self._release()
        cancelled = (self.folder / "cancel").exists()
        (self.folder / "cancel").unlink(missing_ok=True)
        self.hooks.say(f"{'cancelled' if cancelled else 'stopped'}: {self.tally()}")
        self.hooks.say(f"go on with\n    {self.hooks.again}")
        return STOPPED

    def _finish(self) -> int:
        self._release()
        self.hooks.say(self.tally())
        failed = [n for n, state in self.states.items() if state.status == "FAILED"]
        for number in failed:
            log = attempt_dir(self.folder, number, self.states[number].attempt) / "log.txt"
            self.hooks.say(f"job {number} failed: {self.states[number].reason}\n    {log}")
        return FAILED if failed else DONE

    # ---- words

    def tally(self) -> str:
        """`20 of 24 jobs done, 3 failed, 1 pruned`."""
        found = [state.status for state in self.states.values()]
        rest = [f"{found.count(s)} {s.lower()}" for s in dict.fromkeys(found) if s != "DONE"]
        return ", ".join([f"{found.count('DONE')} of {counted(len(found), 'job')} done", *rest])

    def _say(self, number: int) -> None:
        state, job = self.states[number], self.jobs[number]
        done = sum(s.status == "DONE" for s in self.states.values())
        words = " ".join(o for o in job.overrides if o.lstrip("+").partition("=")[0] in self.plan.varied)
        what = {"LEASED": f"starts on {state.pod}"}.get(state.status, state.status.lower())
        again = f" (attempt {state.attempt})" if state.attempt > 1 else ""
        reason = f": {state.reason}" if state.reason and state.status != "LEASED" else ""
        self.hooks.say(f"[{done}/{len(self.jobs)}] job {number} {what}{again}{reason}  {words}")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _yaml(tree: Any) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=10_000)
