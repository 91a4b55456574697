"""`lmx spike`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmx.cli.command import Command

OWN = ("run", "step", "window", "rows", "tokens", "root", "changes", "output", "hydra")


def run(composed: Any, run_dir: Path) -> None:
    """Does a step of a run again and shows what it was made of."""
    from lmx.config.environment import imports
    from lmx.config.errors import requests
    from lmx.io.files import to_json
    from lmx.review.runs import select
    from lmx.review.runs_config import as_list

    config = composed.config
    with requests():
        (path, *_) = select([config.run], as_list(config.root))
    with imports():
        from lmx.run import spike
    found = spike.look(
        path,
        config.step,
        window=config.window,
        rows=config.rows,
        tokens=config.tokens,
        changes=config.changes,
    )
    print(to_json(spike.as_json(found), indent=2) if config.output == "json" else spike.text(found))


COMMANDS = (
    Command(
        name="spike",
        summary="a step of a run once more: which documents, which tokens, which layers",
        schema="lmx.run.spike_config:Spike",
        function=run,
        keys=("run", "step", "window", "rows", "tokens", "output"),
        examples=(
            (
                "lmx spike runs/RUN step=480",
                "its rows and tokens of the highest loss, the layers that stand out",
            ),
            ("lmx spike RUN step=480 window=50 rows=8", "compared with the 50 steps before; more rows"),
            ("lmx spike RUN step=480 mesh=single output=json", "on one device; for programs"),
        ),
        positional="run",
        collects=("changes", OWN),
    ),
)
