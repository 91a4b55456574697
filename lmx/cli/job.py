"""Runs a command: validates the request first, then enters Hydra for the run directory, sweeps and launchers."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmx.cli.arguments import hydra_flags, parse, places_of, resume_target, value_of
from lmx.cli.command import Command
from lmx.cli.pipe import nobody_reads
from lmx.cli.report import report
from lmx.config.errors import (
    DONE,
    FAILED,
    STOPPED,
    WRONG_REQUEST,
    ConfigError,
    RequestError,
)
from lmx.config.text import counted


class JobFailed(Exception):
    """A job of a sweep failed; its message has been shown."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, exit_code)
        self.message, self.exit_code = message, exit_code

    def __str__(self) -> str:
        return self.message


@dataclass
class Outcome:
    """How the jobs of this process ended: for each its number, exit code and message."""

    done: int = 0
    failed: list[tuple[int, int, str]] = field(default_factory=list)


class Task:
    """The function that Hydra calls for each job; it travels to other processes with its launcher."""

    def __init__(self, command: Command, places: dict[str, Any], resumed: list[str] | None = None) -> None:
        """`resumed`: the overrides of a run that goes on, the run directory as `resume=` among them."""
        self.command, self.places, self.resumed = command, places, resumed
        self.multirun = False
        self.collect = True
        self.outcome = Outcome()
        self.points: dict[tuple[str, ...], Any] = {}
        self._process = os.getpid()
        self._before = frozenset(os.listdir())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "points": {}, "outcome": Outcome()}

    def __call__(self, cfg: Any) -> float | None:
        """Validates the job's configuration and runs the command on it."""
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        run_dir = Path(hydra.runtime.output_dir)
        number = 0 if not self.multirun else int(hydra.job.num)
        composed = None
        try:
            composed = self._composed(cfg, list(hydra.overrides.task))
            value = self.command.function(composed, run_dir)
            self.outcome.done += 1
            return value
        except BrokenPipeError:
            raise SystemExit(nobody_reads()) from None  # of an Exception, Hydra would say that a job failed
        except Exception as error:
            code, message = report(self.command.name, _with_origins(error, composed), run_dir)
        finally:
            self._leave_nothing(run_dir)
        self.outcome.failed.append((number, code, message))
        if self.multirun:
            if code == STOPPED:
                raise SystemExit(STOPPED)
            if not self.collect or os.getpid() != self._process:
                raise JobFailed(message, code)
        return None

    def _leave_nothing(self, run_dir: Path) -> None:
        """The folder of runs goes again where Hydra made it here for a run that wrote nothing."""
        folder = run_dir.parent
        if folder.parent == Path.cwd() and folder.name not in self._before and not run_dir.exists():
            with suppress(OSError):  # it holds something by now
                folder.rmdir()

    def _composed(self, cfg: Any, overrides: list[str]) -> Any:
        schema = self.command.schema_class()
        if self.resumed is not None:
            from lmx.config.resume import load_resumed

            name, extendable = self.command.name, self.command.extendable
            run_dir = resume_target(self.resumed) or ""
            return load_resumed(
                run_dir, self.resumed, schema, command=name, extendable=extendable, **self.places
            )
        known = self.points.get(tuple(overrides))
        if known is not None:
            return known
        from lmx.config.compose import Composer

        composer = Composer(self.command.name, schema, overrides=overrides, **self.places)
        return composer.of_job(cfg, overrides)


def _with_origins(error: Exception, composed: Any) -> Exception:
    """The error; where it names keys of the configuration, with where they were set."""
    if composed is None or not isinstance(error, ConfigError):
        return error
    from lmx.config.origins import origin_of

    problems = [p.with_origin(origin_of(composed.origins, p.key)) for p in error.problems]
    return ConfigError(problems, error.command)


def execute(command: Command, arguments: list[str]) -> int:
    """Runs `lmx <command> *arguments`; returns the exit code."""
    try:
        if "-h" in arguments or "--help" in arguments:
            from lmx.cli.help import command_page

            print(command_page(command, arguments), end="")
            return DONE
        if "--frozen" in arguments:
            from lmx.cli.frozen import run_frozen

            return run_frozen(command, arguments)
        return _execute(command, arguments)
    except KeyboardInterrupt:
        print(f"lmx {command.name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        return report(command.name, error)[0]


def _execute(command: Command, arguments: list[str]) -> int:
    options = parse(command, arguments)
    places = places_of(options, command)
    flags, overrides = hydra_flags(options), options.overrides
    task = Task(command, places)
    if options.shell_completion or options.info is not None or options.hydra_help:
        return _enter(task, [*flags, *overrides])
    if options.cfg is not None:
        return _show(task, flags, overrides)
    target = resume_target(overrides) if command.resumable else None
    if target is None and command.resumable and value_of(overrides, "resume") == "":
        raise RequestError("resume= names no run: give its directory, resume=runs/RUN, or leave it out")
    if target is not None:
        return _resume(task, options, overrides, target)
    if options.multirun or value_of(overrides, "hydra.mode") == "MULTIRUN":
        return _sweep(task, flags, overrides)
    from lmx.config.compose import Composer

    composer = Composer(command.name, command.schema_class(), overrides=overrides, **places)
    composed, problems = composer.check(overrides)
    if problems or composed is None:
        raise ConfigError(problems, command.name)
    if "topology" in composed.schema.model_fields:  # Hydra, which chooses by the devices here, adds nothing
        task.points = {tuple(composer.for_hydra(composed.overrides)): composed}
    _check_folder(value_of(overrides, "hydra.run.dir"))
    code = _enter(task, [*flags, *composer.for_hydra(overrides)])
    return code or max((failed[1] for failed in task.outcome.failed), default=DONE)


def _check_folder(run_dir: str | None) -> None:
    """RequestError where Hydra could not make this folder."""
    for place in () if run_dir is None else (Path(run_dir), *Path(run_dir).parents):
        if place.exists() and not place.is_dir():
            raise RequestError(f"hydra.run.dir={run_dir}: {place} is a file; name another folder")


def _show(task: Task, flags: list[str], overrides: list[str]) -> int:
    """`--cfg`: Hydra shows what it composed, also where it does not hold; then come the problems."""
    from lmx.config.compose import Composer
    from lmx.config.hardware import described

    composer = Composer(task.command.name, task.command.schema_class(), overrides=overrides, **task.places)
    _, problems = composer.check(overrides)
    try:
        with described(composer.devices(overrides)):
            code = _enter(task, [*flags, *composer.for_hydra(overrides)])
    except Exception:
        if not problems:
            raise
        code = WRONG_REQUEST
    if problems:
        raise ConfigError(problems, task.command.name)
    return code


def _resume(task: Task, options: argparse.Namespace, overrides: list[str], target: str) -> int:
    from lmx.config.overrides import write_value
    from lmx.config.resume import load_resumed

    name = task.command.name
    if options.multirun:
        raise RequestError("resume= goes on with one run; it cannot be swept")
    if value_of(overrides, "hydra.run.dir") is not None:
        raise RequestError(f"resume={target} goes on in that directory; leave hydra.run.dir out")
    schema, extendable = task.command.schema_class(), task.command.extendable
    load_resumed(target, overrides, schema, command=name, extendable=extendable, **task.places)
    task.resumed = overrides
    folder = write_value(os.path.abspath(target))
    own = [line for line in overrides if line.lstrip("+~").startswith(("hydra.", "hydra/"))]
    code = _enter(task, [*hydra_flags(options), f"hydra.run.dir={folder}", *own])
    return code or max((failed[1] for failed in task.outcome.failed), default=DONE)


def _sweep(task: Task, flags: list[str], overrides: list[str]) -> int:
    """Validates every point, then lets Hydra's sweeper run them; the worst exit code of all jobs."""
    from lmx.config.compose import Composer
    from lmx.config.sweep import check_sweep

    name = task.command.name
    composer = Composer(name, task.command.schema_class(), overrides=overrides, **task.places)
    sweep = check_sweep(composer, overrides)
    if not sweep.problems and (added := composer.for_hydra(overrides)) != overrides:
        overrides, sweep = added, check_sweep(composer, added)
    if sweep.problems:
        raise ConfigError(sweep.problems, name)
    task.multirun, task.collect = True, sweep.complete
    task.points = {tuple(point.overrides): point.composed for point in sweep.points}
    points = counted(len(sweep.points), "point")
    told = f"{points} to run" if sweep.complete else f"{points} checked; the sweeper chooses which to run"
    print(f"lmx {name}: {told}", file=sys.stderr)
    try:
        code = _enter(task, [*flags, *overrides])
    except JobFailed as error:
        code = error.exit_code
    for number, ended, message in task.outcome.failed:
        how = "stopped" if ended == STOPPED else "failed"
        print(f"lmx {name}: job {number} {how}: {message.splitlines()[0]}", file=sys.stderr)
    if task.outcome.failed:
        total = task.outcome.done + len(task.outcome.failed)
        print(f"lmx {name}: {task.outcome.done} of {counted(total, 'job')} done", file=sys.stderr)
    stopped = [number for number, ended, _ in task.outcome.failed if ended == STOPPED]
    if stopped and sweep.complete:
        print(_left_over(name, [p.overrides for p in sweep.points[stopped[0] + 1 :]], flags), file=sys.stderr)
    codes = {failed[1] for failed in task.outcome.failed} | ({code} if code else set())
    return next((c for c in (STOPPED, FAILED, WRONG_REQUEST) if c in codes), max(codes, default=DONE))


def _left_over(name: str, points: list[list[str]], flags: list[str]) -> str:
    """What a stopped sweep leaves to do, as commands to paste."""
    own = [flag for flag in flags if flag not in ("--multirun", "--run")]
    lines = [shlex.join(["lmx", *name.split(), *own, *point]) for point in points]
    going_on = f"lmx {name}: the stopped run goes on with the command above; the same sweep anew would begin all of it"
    if not lines:
        return going_on
    more = [f"    ... and {len(lines) - 10} more"] if len(lines) > 10 else []
    begun = f"{counted(len(lines), 'point')} {'was' if len(lines) == 1 else 'were'} not begun:"
    return "\n".join([f"{going_on}. {begun}", *(f"    {line}" for line in lines[:10]), *more])


def _enter(task: Task, arguments: list[str]) -> int:
    """Hydra's main with these arguments; its exceptions come through, its exit code is returned."""
    import hydra

    from lmx.config.files import conf_dir
    from lmx.config.sources import VERSION_BASE

    primary = task.places["primary"] or task.command.primary
    main = hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name=primary)(task)
    with _process_state([sys.argv[0], *arguments], f"lmx.{task.command.primary}"):
        try:
            main()
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else (DONE if exit_.code is None else FAILED)
    return DONE


@contextmanager
def _process_state(arguments: list[str], module: str) -> Iterator[None]:
    """Arguments and environment as Hydra reads them: job name, and exceptions instead of printed errors."""
    wanted = {"HYDRA_FULL_ERROR": "1", "HYDRA_MAIN_MODULE": module}
    before, argv = {name: os.environ.get(name) for name in wanted}, sys.argv
    os.environ.update(wanted)
    sys.argv = arguments
    try:
        yield
    finally:
        sys.argv = argv
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
