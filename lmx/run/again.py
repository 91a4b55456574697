"""The command that goes on with a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from lmx.config.overrides import write_value


def command_again(run: Path) -> str:
    """`lmx launch resume RUN` where it was launched from this directory, else `lmx train resume=RUN`."""
    launched = (run / "launch" / "plan.json").is_file()
    return shlex.join(
        ["lmx", "launch", "resume", str(run)]
        if launched
        else ["lmx", "train", f"resume={write_value(str(run))}"]
    )
