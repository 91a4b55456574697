"""Real processes in place of long runs: a Python that runs the agent, and a shell script instead of `-m lmx`."""

from __future__ import annotations

import signal
import stat
import sys
import time
from pathlib import Path

from lmx.config.errors import RequestError
from lmx.launch import Local
from lmx.launch.agent import process as agent
from lmx.launch.gang import Layout
from lmx.launch.host import Host
from lmx.launch.plan import Policy, freeze, load
from lmx.launch.target import Attempt, Plan

POLICY = Policy(max_failures=2, max_preemptions=None, grace=5.0, poll_every=0.1, restart_after=0.1)
CHECKPOINT = 'mkdir -p "$RUN/checkpoints/$n" && echo "{}" > "$RUN/checkpoints/$n/lmx.json"'


def kill(path: Path) -> None:
    """SIGKILL to the process group of a pid file, if it is still that process: its number may be another's by now."""
    if agent.alive(identity := agent.read(str(path))):
        agent.signal_group(identity["pid"], signal.SIGKILL)


def stub(folder: Path, program: str) -> str:
    """The path of such a Python. In the script $RUN is the run directory, $TASK the process, $ATTEMPT counts from 0."""
    path = folder / "python"
    path.write_text(
        f"""#!/bin/sh
if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi
for word in "$@"; do case $word in hydra.run.dir=*) RUN=${{word#hydra.run.dir=}};; esac; done
TASK=${{JAX_PROCESS_ID:-${{SLURM_PROCID:-0}}}}
mkdir -p "$RUN"
ATTEMPT=$(ls "$RUN" | grep -c "^began-$TASK-")
touch "$RUN/began-$TASK-$ATTEMPT"
WORDS="$*"
{program}
""",
        encoding="utf-8",
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


class Stubbed(Local):
    """Target `local` with another Python."""

    python: str

    def layout(self, plan: Plan) -> Layout:
        return super().layout(plan)._replace(hosts=(Host("this machine", (), self.python),))


class Flaky(Stubbed):
    """Attempt 1 cannot be started."""

    def start(self, plan: Plan, number: int, *, resume: bool = False) -> Attempt:
        if number == 1:
            raise RequestError("host1: no answer within 60 s")
        return super().start(plan, number, resume=resume)


def launch(
    tmp_path: Path,
    program: str,
    *,
    processes: int = 1,
    policy: Policy = POLICY,
    kind: type[Stubbed] = Stubbed,
):
    """A frozen launch of the script."""
    target = {
        "_target_": f"{kind.__module__}.{kind.__name__}",
        "processes": processes,
        "devices": None,
        "env": {},
        "python": stub(tmp_path, program),
    }
    run_dir = tmp_path / "run"
    freeze(
        {"name": "x"},
        folder=run_dir / "launch",
        run_dir=run_dir,
        target=target,
        policy=policy,
        environment={},
    )
    return load(run_dir / "launch")


def until(condition, seconds: float = 60.0):
    """Waits for a condition; its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not come about")
