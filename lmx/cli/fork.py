"""`lmx fork`."""

from __future__ import annotations

import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmx.cli.command import Command

OWN = ("from", "to", "root", "train", "changes", "hydra")


def run(composed: Any, run_dir: Path) -> float | None:
    """Makes the directory of the new run, and trains it where that is asked for."""
    from lmx.cli import train
    from lmx.config.environment import imports
    from lmx.config.errors import RequestError, requests
    from lmx.config.overrides import write_value
    from lmx.config.resume import load_resumed
    from lmx.review.runs import select
    from lmx.review.runs_config import as_list

    with imports():
        from lmx.run.config import TrainConfig
        from lmx.run.fork import fork, which_of

    config = composed.config
    with requests():
        name, which = which_of(config.from_)
        (source, *_) = select([name], as_list(config.root))
        made = fork(source, which, list(config.changes), _folder(config.to, run_dir))
    print(f"lmx fork: {made.path} goes on from {source} after step {made.step}", file=sys.stderr)
    for change in made.changes:
        print(f"    {change.key}: {change.old} -> {change.new} ({change.effect})", file=sys.stderr)
    again = shlex.join(["lmx", "train", f"resume={write_value(str(made.path))}"])
    if not config.train:
        print(again)
        return None
    resumed = load_resumed(made.path, [f"resume={write_value(str(made.path))}"], TrainConfig)
    try:
        return train.run(resumed, made.path)
    except RequestError as error:  # nothing has been trained
        shutil.rmtree(made.path)
        weights = f"model.init_from={write_value(str(source / 'checkpoints' / str(made.step)))}"
        raise RequestError(
            f"{error}\nfor its weights alone: lmx train {weights}, with the same model"
        ) from error


def _folder(to: str | None, run_dir: Path) -> Path | None:
    """What `to`, or else `hydra.run.dir`, names; None where neither is given. RequestError where both are."""
    from lmx.config.errors import RequestError

    if run_dir == Path.cwd():
        return None if to is None else Path(to)
    with suppress(OSError):  # Hydra has made it
        run_dir.rmdir()
    if to is not None:
        raise RequestError(
            f"to={to} and hydra.run.dir={run_dir}: both name the folder of the new run; give one"
        )
    return run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir


COMMANDS = (
    Command(
        name="fork",
        summary="branch a run off a checkpoint of another one, with changes",
        schema="lmx.run.fork:ForkRequest",
        function=run,
        keys=("from", "to", "train", "root"),
        examples=(
            (
                "lmx fork runs/RUN@500 optimizer.learning_rate=3e-4",
                "from step 500 with another learning rate",
            ),
            (
                "lmx fork RUN@best data=text data.path=book.txt trainer.steps=2k",
                "the best one goes on, on other data",
            ),
            (
                "lmx fork RUN to=runs/long schedule=constant train=false",
                "only made; the command to train it is printed",
            ),
        ),
        positional="from",
        collects=("changes", OWN),
    ),
)
