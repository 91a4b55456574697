"""Cheap jobs on launch targets: a Python that runs cheap.py in place of `lmx train`, as real processes."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import yaml

from lmx.launch import Local
from lmx.launch.gang import Layout
from lmx.launch.host import Host
from lmx.launch.target import Plan
from lmx.sweep.config import Retries
from lmx.sweep.driver import Driver
from lmx.sweep.plan import read_plan
from tests.sweep.support import hooks_of

CHEAP = Path(__file__).parent / "cheap.py"


def python(folder: Path) -> str:
    """The path of such a Python: process 0 does the job, the others wait for it as long as it takes."""
    path = folder / "python"
    there = Path(yaml.__file__).parents[1]
    path.write_text(
        f"""#!/bin/sh
if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi
for word in "$@"; do case $word in
  hydra.run.dir=*) RUN=${{word#hydra.run.dir=}};;
  */config.yaml) CONFIG=$word;;
esac; done
JOB=$(dirname "$CONFIG")
if [ "${{JAX_PROCESS_ID:-${{SLURM_PROCID:-0}}}}" != 0 ]; then
  trap 'exit 75' TERM
  until grep -qs code "$JOB/task-0.exit" "$JOB"/../host-0/task-0.exit "$JOB"/attempts/*/task-0.exit; do sleep 0.1; done
  exit 0
fi
mkdir -p "$RUN"
exec 9>"$RUN/lock"; flock -n 9 || {{ echo "lmx train: $RUN: this run directory is in use by someone" >&2; exit 2; }}
PYTHONPATH={there} exec {sys.executable} -S {CHEAP} "$JOB" "$RUN"
""",
        encoding="utf-8",
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


class Cheap(Local):
    """Target `local` with another Python."""

    python: str

    def layout(self, plan: Plan) -> Layout:
        return super().layout(plan)._replace(hosts=(Host("this machine", (), self.python),))


def local(folder: Path, **changes) -> dict:
    """The tree of such a target."""
    own = {"processes": 2, "devices": None, "env": {}, "python": python(folder)}
    return {"_target_": "tests.sweep.gangs.Cheap", **own, **changes}


def pool_of(pods: dict, **changes) -> dict:
    """The tree of a pool."""
    own = {"runs": None, "storage": "shared", "poll_every": 0.1, "patience": 5.0}
    return {"_target_": "lmx.sweep.TargetPool", "pods": pods, **own, **changes}


def ssh_pods(servers, tmp_path, workdirs):
    """Pods a and b, each an sshd of the fixture `hosts` with a working directory of its own."""
    from tests.support import read_option  # imports jax, which whoever only starts gangs can do without

    names, options, _ = servers
    base = read_option("target", "ssh") | {
        "options": options,
        "python": python(tmp_path),
        "code": "installed",
    }
    pause = os.environ.get("CHEAP_PAUSE", "0.02")  # an sshd hands down nothing
    base |= {"lost_after": 2.0, "connect_timeout": 2.0, "env": {"CHEAP_PAUSE": pause}}
    return {
        name: base | {"hosts": [host], "workdir": str(tmp_path / work)}
        for name, host, work in zip("ab", names, workdirs, strict=True)
    }


def make_driver(folder: Path, pool, say=print, max_failures=8, losing=None) -> Driver:
    """A driver of the sweep in a folder, whose pods are checked first."""
    plan = read_plan(folder)
    pool.enlist(folder, plan.jobs[0].config, 5.0)
    hooks = hooks_of(folder, say=say, losing=losing)
    retries = Retries(max_failures=max_failures, max_preemptions=100, grace=5.0)
    return Driver(folder, plan, pods=pool.build(folder), retries=retries, hooks=hooks, poll=0.05)


if __name__ == "__main__":
    from lmx.sweep.config import Pool

    driver = make_driver(
        Path(sys.argv[1]), Pool.model_validate(yaml.safe_load(Path(sys.argv[2]).read_text()))
    )
    try:
        sys.exit(driver.run())
    finally:
        driver.close()
