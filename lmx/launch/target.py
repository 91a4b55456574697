"""What every target is: a place with hosts where one frozen run is started, looked after and stopped.

A sweep and `lmx launch` use nothing else of a target than what stands here:

    plan = Plan(...)                        # see `lmx.launch.plan.freeze`
    target.check(plan)                      # RequestError with name and cure, before anything is started
    target.prepare(plan)                    # code and setup on every host; doing it again is harmless
    attempt = target.start(plan, 0)         # returns at once
    while (seen := target.poll(plan, attempt)).exit_code is None: ...
    target.stop(plan, attempt)              # those processes alone; harmless when they have ended

`Attempt` and `Plan` are plain data that `write` and `read` keep in the run's folder, so that any process can go on
with what another one began.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lmx.config.component import Component
from lmx.config.errors import RequestError
from lmx.io.files import write_atomic

DEFAULT_GRACE = 60.0
KILLED = (-9, 137)
FOLLOWED = (-6, 134)
"""A process that JAX aborts because another one has died."""

State = Literal["waiting", "running", "ended", "lost"]


class Unreached(RequestError):
    """Hosts that do not answer now, and may come back."""


class Plan(NamedTuple):
    """One run that is about to be started, or was.

    run          its id, unique: the name of its folder
    folder       `RUN_DIR/launch` on this machine: what the launcher keeps of it
    run_dir      run directory as the hosts see it; relative paths are relative to the target's working directory
    environment  variables that every process gets, beside the target's own
    code         content hash of the code snapshot in `folder/code.tar`; None: the code that is there
    text         the frozen configuration, where it is only to be shown and `folder` does not hold it
    """

    run: str
    folder: Path
    run_dir: str
    environment: dict[str, str]
    code: str | None = None
    text: str = ""

    @property
    def config(self) -> Path:
        """The frozen configuration on this machine."""
        return self.folder / "config.yaml"

    def attempt_folder(self, number: int) -> Path:
        """Where the logs of all hosts of an attempt are on this machine."""
        return self.folder / "attempts" / str(number)


class Attempt(NamedTuple):
    """A started attempt. `handle` is JSON: what the target needs to find its processes again."""

    number: int
    handle: dict[str, Any]


class Task(NamedTuple):
    """One process of the run, as last seen.

    index      process of the run, from 0
    host       name for people
    exit_code  as its parent saw it, -9 for SIGKILL; None while it runs
    ended      when, seconds since the epoch
    message    what is known beyond the code: `host3 has not answered for 45 s`
    """

    index: int
    host: str
    state: State = "running"
    exit_code: int | None = None
    ended: float | None = None
    message: str = ""


class Seen(NamedTuple):
    """An attempt as last seen: its tasks, and how far the run is.

    step        of the last row of metrics; None where none was written
    loss        of the same
    checkpoint  the newest whole one; None where there is none
    preempted   whether the place took the hosts away
    """

    tasks: tuple[Task, ...]
    step: int | None = None
    checkpoint: int | None = None
    preempted: bool = False
    loss: float | None = None

    @property
    def running(self) -> bool:
        """Whether a process may still be alive."""
        return any(task.state in ("waiting", "running") for task in self.tasks)

    @property
    def first_error(self) -> Task | None:
        """The task that failed first: whose end was not the consequence of another's."""
        failed = [t for t in self.tasks if t.exit_code not in (None, 0)]
        return min(failed, key=_order, default=None)

    @property
    def exit_code(self) -> int | None:
        """None while a process runs; 0, 1, 2 or 75 of the whole attempt."""
        if self.running:
            return None
        if self.preempted:
            return 75
        first = self.first_error
        if first is None:
            return 0
        return first.exit_code if first.exit_code in (1, 2, 75) else 1


def _order(task: Task) -> tuple[bool, bool, float]:
    lost = task.state == "lost" or task.exit_code in KILLED
    return (task.exit_code in FOLLOWED, not lost, task.ended or 0.0)


class Step(NamedTuple):
    """Something that is done: a command with its standard input, or (argv empty) a file that is written here."""

    argv: tuple[str, ...] = ()
    input: str = ""
    file: str = ""
    where: str = "here"


class Target(Component):
    """A place where runs are started: an option of `target`."""

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between its keys: (key, message, fix that can be pasted)."""
        return []

    def n_processes(self) -> int | None:
        """How many processes share a run; None where that is known only when it runs."""
        return None

    def check_request(self) -> None:
        """RequestError where this machine alone can tell that the target cannot be: no host, no such program."""

    def check_code(self, archive: Path) -> None:
        """RequestError where a snapshot of the code cannot be sent: it is too large."""

    def takes_snapshot(self) -> bool:
        """Whether the code of this checkout is sent to the hosts."""
        return False

    def run_dir(self, path: Path) -> str:
        """The run directory as the hosts see it, `path` being that of this machine."""
        return str(path.absolute())

    def check(self, plan: Plan) -> None:
        """RequestError naming what is missing and the cure, where a run could not be started."""

    def steps(self, plan: Plan) -> list[Step]:
        """Every command and file of the first attempt, exactly as it would be done. Starts nothing."""
        raise NotImplementedError

    def prepare(self, plan: Plan) -> None:
        """Brings code and setup to every host; RequestError where that fails. Doing it again is harmless."""

    def renew(self, plan: Plan) -> None:
        """Sees to it that the hosts that `prepare` has set up are there, and sets up those that are made again."""

    def taken(self, plan: Plan) -> bool:
        """Whether the place has taken the hosts away, with all that ran on them."""
        return False

    def start(self, plan: Plan, number: int, *, resume: bool = False) -> Attempt:
        """Starts every process and returns. `resume`: go on from the newest checkpoint, which is there.

        What lives of earlier attempts is ended first. Unreached where a host does not answer, RequestError where it
        refuses; nothing runs then."""
        raise NotImplementedError

    def poll(self, plan: Plan, attempt: Attempt, *, logs: bool = True) -> Seen:
        """What is known now. `logs`: brings what the hosts have logged since into `plan.attempt_folder(number)`;
        only one process at a time may do that, the one that holds `driver.lock`."""
        raise NotImplementedError

    def stop(self, plan: Plan, attempt: Attempt, *, grace: float = DEFAULT_GRACE) -> list[str]:
        """SIGTERM to the attempt's processes, after `grace` seconds SIGKILL; returns when they have ended, with a
        message for each host that could not be asked."""
        raise NotImplementedError

    def sweep(self, plan: Plan, *, grace: float = DEFAULT_GRACE) -> list[str]:
        """Ends what attempts that are over have left alive on hosts that did not answer then; messages as of `stop`."""
        return []

    def where(self, plan: Plan, attempt: Attempt) -> str | None:
        """Where an attempt's run directory is, in words, `host: path`; None: where this machine has it."""
        return None

    def collect(self, plan: Plan, attempt: Attempt) -> list[str]:
        """Brings the results that the run directory holds beside checkpoints to this machine's; what went wrong."""
        return []

    def release(self, plan: Plan) -> list[str]:
        """Gives back what was made for this run alone (a TPU pod, a JobSet); what was done, in words."""
        return []


def log_file(plan: Plan, number: int, task: int, kind: Literal["log", "out"] = "log") -> Path:
    """Standard error (`log`) or standard output (`out`) of a process, on this machine."""
    return plan.attempt_folder(number) / f"task-{task}.{kind}"


def write(plan: Plan, attempt: Attempt) -> None:
    """Keeps an attempt in its folder."""
    folder = plan.attempt_folder(attempt.number)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "attempt.json", json.dumps(attempt._asdict(), indent=1) + "\n", sync=True)


def read(plan: Plan) -> list[Attempt]:
    """The attempts that were started, in order."""
    found = sorted(plan.folder.glob("attempts/*/attempt.json"), key=lambda path: int(path.parent.name))
    return [Attempt(**json.loads(path.read_text(encoding="utf-8"))) for path in found]


def each(function: Callable[[int], Any], count: int) -> list[Any]:
    """`function(0), function(1), ...`, all at the same time: 64 hosts take as long as one."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max(1, min(count, 256))) as pool:
        return list(pool.map(function, range(count)))


def environment_of(task: int, tasks: int, coordinator: str | None) -> dict[str, str]:
    """How the processes of one run find each other (see `distributed`); None: by what their hosts know."""
    if tasks == 1 or coordinator is None:
        return {}
    return {
        "JAX_COORDINATOR_ADDRESS": coordinator,
        "JAX_NUM_PROCESSES": str(tasks),
        "JAX_PROCESS_ID": str(task),
    }


def command_of(python: str, config: str, run_dir: str, *, resume: bool) -> Sequence[str]:
    """The words that start one process."""
    more = ("--resume",) if resume else ()
    return (python, "-m", "lmx", "train", "--frozen", config, f"hydra.run.dir={run_dir}", *more)
