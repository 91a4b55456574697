"""`lmx sweep run | status | resume | cancel | table | plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run_new(composed: Any, run_dir: Path) -> None:
    """Freezes a sweep and runs it."""
    from lmx.sweep import command

    _show(composed.config, command.run(composed))


def resume(composed: Any, run_dir: Path) -> None:
    """Goes on with a sweep."""
    from lmx.sweep import command

    _show(composed.config, command.resume(composed.config))


def status(composed: Any, run_dir: Path) -> None:
    """Shows how a sweep goes."""
    from lmx.sweep.command import find
    from lmx.sweep.status import watch

    watch(find(composed.config.sweep), how=composed.config.watch, output=composed.config.output)


def cancel(composed: Any, run_dir: Path) -> None:
    """Ends the running jobs of a sweep."""
    from lmx.sweep import command

    folder = command.find(composed.config.sweep)
    said = command.cancel(folder, composed.config.timeout)
    if composed.config.output == "json":
        from lmx.io.files import to_json

        print(to_json({"sweep": str(folder), "message": said}))
    else:
        print(f"{folder}: {said}")


def table(composed: Any, run_dir: Path) -> None:
    """Shows the results of a sweep."""
    from lmx.sweep.command import find
    from lmx.sweep.table import show

    show(find(composed.config.sweep), composed.config)


def plot(composed: Any, run_dir: Path) -> None:
    """Draws a sweep."""
    from lmx.sweep.command import find
    from lmx.sweep.plot import draw

    folder = find(composed.config.sweep)
    to = draw(folder, composed.config)
    if composed.config.output == "json":
        from lmx.io.files import to_json

        print(to_json({"sweep": str(folder), "picture": str(to)}))
    else:
        print(f"drawn: {to}")


def _show(config: Any, folder: Path) -> None:
    from lmx.sweep.status import watch

    if (folder / "sweep.json").exists() and not config.detach:
        watch(folder, how="never", output=config.output)


COMMANDS = (
    Command(
        name="sweep run",
        summary="freeze a sweep of training runs and run it on a pool of pods",
        schema="lmx.sweep.config:SweepRun",
        function=run_new,
        keys=(
            "dir",
            "pool",
            "pool.size",
            "points",
            "retries.max_failures",
            "stopping",
            "max_chip_hours",
            "detach",
            "dry_run",
            "output",
        ),
        examples=(
            ("lmx sweep run optimizer.learning_rate=1e-3,3e-3 trainer.seed=0,1", "four runs, two at a time"),
            ("lmx sweep run model=tiny,nano pool.size=4 pool.cores=divided detach=true", "in the background"),
            (
                "lmx sweep run mesh=fsdp trainer.seed=0,1 pool=ssh 'pool.gangs=[[a,b],[c,d]]'",
                "on two gangs of hosts",
            ),
            ("lmx sweep run trainer.seed=0,1 dry_run=true", "show the jobs, start nothing"),
        ),
        collects=(
            "overrides",
            (
                "overrides",
                "pool",
                "points",
                "retries",
                "stopping",
                "hours_per_job",
                "max_chip_hours",
                "dir",
                "poll",
                "detach",
                "dry_run",
                "output",
            ),
        ),
    ),
    Command(
        name="sweep status",
        summary="jobs of a sweep, their progress, the time that is left",
        schema="lmx.sweep.config:SweepStatus",
        function=status,
        keys=("sweep", "watch", "output"),
        examples=(("lmx sweep status sweeps/DIR", "one table; on a terminal it stays and follows"),),
        positional="sweep",
    ),
    Command(
        name="sweep resume",
        summary="go on with a sweep whose driver was stopped or killed",
        schema="lmx.sweep.config:SweepResume",
        function=resume,
        keys=("sweep", "pool", "changed_code", "max_failures", "max_preemptions", "detach", "output"),
        examples=(
            ("lmx sweep resume sweeps/DIR", "what is done stays; running jobs are found again"),
            ("lmx sweep resume sweeps/DIR max_failures=10", "try failed jobs again"),
            ("lmx sweep resume sweeps/DIR pool=local pool.size=8", "on other pods"),
        ),
        positional="sweep",
    ),
    Command(
        name="sweep cancel",
        summary="end the running jobs of a sweep; they save first",
        schema="lmx.sweep.config:SweepCancel",
        function=cancel,
        keys=("sweep", "timeout", "output"),
        examples=(("lmx sweep cancel sweeps/DIR", "`lmx sweep resume sweeps/DIR` goes on"),),
        positional="sweep",
    ),
    Command(
        name="sweep table",
        summary="results of a sweep, and which differences are more than noise",
        schema="lmx.sweep.config:SweepTable",
        function=table,
        keys=("sweep", "metric", "best_is", "seed", "output"),
        examples=(
            ("lmx sweep table sweeps/DIR", "a row a job; mean and spread over seeds; further seeds needed"),
            ("lmx sweep table sweeps/DIR metric=tokens_per_second best_is=highest", "another result"),
            ("lmx sweep table sweeps/DIR output=csv > results.csv", "for a spreadsheet"),
        ),
        positional="sweep",
    ),
    Command(
        name="sweep plot",
        summary="draw a sweep: the loss by arm, or a parameter against the result",
        schema="lmx.sweep.config:SweepPlot",
        function=plot,
        keys=("sweep", "kind", "x", "metric", "seed", "to", "output"),
        examples=(
            ("lmx sweep plot sweeps/DIR", "the evaluation loss of each arm over the steps"),
            ("lmx sweep plot sweeps/DIR kind=parameter x=optimizer.learning_rate", "rate against loss"),
        ),
        positional="sweep",
    ),
)
