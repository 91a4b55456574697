"""The two scripts of a SLURM job: what sbatch runs on the first node, and what srun runs as each process."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from lmx.io.files import read_json
from lmx.launch.host import quote
from lmx.launch.slurm_config import Slurm
from lmx.launch.target import Plan, command_of

JOB = """\
#!/bin/bash
# The job of a run: srun starts every process of it on all nodes at once.
{directives}

folder={folder}
run={run_dir}
restart=${{SLURM_RESTART_COUNT:-0}}
printf '%512s' '' >"$folder/job.exit"  # room for the exit code, which is told when the disk is full too
cd {directory} || exit 1
{exports}
{setup}
newest() {{ ls -d "$run"/checkpoints/*/lmx.json 2>/dev/null | sort -V | tail -n 1; }}
before=$(newest)
resume=()
if [ -n "$before" ]; then
  resume=(--resume)
elif [ "$restart" -gt 0 ]; then  # without a checkpoint it begins anew, in an empty directory
  {python} -c 'import sys; from lmx.launch.agent import move_aside; move_aside(*sys.argv[1:])' \\
    "$run" "{number}.$restart"
fi

trap : TERM  # the processes get it as well, and write a checkpoint: this script waits for them
srun {srun} bash "$folder/task.sh" "${{resume[@]}}"
code=$?
{requeue}
printf '%-512s' "{{\\"code\\": $code, \\"time\\": $(date +%s), \\"restart\\": $restart}}" 1<>"$folder/job.exit"
exit $code
"""

REQUEUE = """
# Stopped with a new checkpoint, but neither as asked nor by SLURM, which would see to it: SLURM is to start it again.
again() { for try in 1 2 3 4 5; do "$@" && return; sleep 2; done; return 1; }  # a controller that is busy
if [ $code = 75 ] && [ "$(newest)" != "$before" ] && [ ! -e "$folder/stop" ] && [ ! -e "${LMX_STOP_FILE:-}" ] &&
  [ "$(again squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
  again scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi"""

TASK = """\
#!/bin/bash
# One process of a run; srun starts it. Its end is left in the run's folder, for whoever looks after it.
folder={folder}
name=$folder/task-$SLURM_PROCID
restart=${{SLURM_RESTART_COUNT:-0}}
printf '%512s' '' >"$name.exit"  # room for the exit code, which is told when the disk is full too
echo "$SLURMD_NODENAME $restart" >"$name.node"
room() {{ df --output=avail -k "$1" 2>/dev/null | grep '^ *[0-9]' || echo 1024; }}  # KiB that are left on a disk
trap : TERM  # the process gets it as well; this script lives on to see how it ends
{command} "$@" >>"$name.out" 2>>"$name.log"
code=$?
full=
if [ $code != 0 ]; then
  if [ "$(room {run_dir})" -lt 1024 ]; then full=run; elif [ "$(room "$folder")" -lt 1024 ]; then full=launch; fi
fi
end="{{\\"code\\": $code, \\"time\\": $(date +%s.%N), \\"restart\\": $restart, \\"full\\": \\"$full\\"}}"
printf '%-512s' "$end" 1<>"$name.exit"
exit $code
"""


def job_name(plan: Plan, number: int) -> str:
    """A name that no other job has: a job whose number was not written down in time is found by it."""
    import hashlib

    return f"lmx-{plan.run}-{hashlib.sha256(str(plan.folder).encode()).hexdigest()[:8]}-{number}"


def scripts(target: Slurm, plan: Plan, number: int) -> dict[Path, str]:
    """The files of an attempt."""
    folder = plan.attempt_folder(number)
    return {
        folder / "job.sh": job_script(target, plan, number),
        folder / "task.sh": task_script(target, plan, number),
    }


def job_script(target: Slurm, plan: Plan, number: int) -> str:
    """What sbatch runs on the first node, once for each start of the job."""
    folder = plan.attempt_folder(number)
    srun = [
        "--kill-on-bad-exit=0",  # the others are writing the same checkpoint
        f"--wait={target.wait:.0f}",
        *target.srun_options,
    ]
    return JOB.format(
        directives="\n".join(  # sbatch takes the quotes off, as a shell does
            f"#SBATCH {shlex.quote(word)}" for word in directives(target, plan, number)
        ),
        folder=shlex.quote(str(folder)),
        run_dir=shlex.quote(plan.run_dir),
        directory=shlex.quote((read_json(plan.folder / "plan.json") or {}).get("directory", os.getcwd())),
        exports="\n".join(exports(target, plan)),
        setup=f"\nset -e\n{target.setup}\nset +e\n" if target.setup is not None else "",
        python=quote(target.python),
        number=number,
        srun=shlex.join(srun),
        requeue=REQUEUE if target.requeue else "",
    )


def task_script(target: Slurm, plan: Plan, number: int) -> str:
    """What srun runs as each process; its arguments are added to the command."""
    words = command_of(target.python, str(plan.config), plan.run_dir, resume=False)
    return TASK.format(
        folder=shlex.quote(str(plan.attempt_folder(number))),
        run_dir=shlex.quote(plan.run_dir),
        command=" ".join(map(quote, words)),
    )


def directives(target: Slurm, plan: Plan, number: int) -> list[str]:
    """The options of sbatch."""
    log = str(plan.attempt_folder(number) / "job.log").replace("%", "%%")
    given = {
        "job-name": job_name(plan, number),
        "partition": target.partition,
        "account": target.account,
        "nodes": target.nodes,
        "ntasks-per-node": target.processes,
        "gpus-per-node": target.gpus,
        "cpus-per-task": target.cpus,
        "mem": target.memory,
        "time": None if target.time is None else clock(target.time),
        # Only the processes get it, not the script.
        "signal": None if target.signal_lead is None else f"TERM@{target.signal_lead:.0f}",
        "output": log,
        "open-mode": "append",
    }
    words = [f"--{key}={value}" for key, value in given.items() if value is not None]
    return [*words, "--requeue" if target.requeue else "--no-requeue", *target.options]


def clock(seconds: float) -> str:
    """Hours, minutes and seconds as SLURM writes them: 5400 is 1:30:00."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def exports(target: Slurm, plan: Plan) -> list[str]:
    """The lines that set the environment, and put the code on the path."""
    environment = {**target.env, **plan.environment}
    if target.devices is not None:
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(target.devices)}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    code = code_folder(target, plan)
    if code is not None:
        lines.append(f'export PYTHONPATH={quote(code)}"${{PYTHONPATH:+:$PYTHONPATH}}"')
    return lines


def code_folder(target: Slurm, plan: Plan) -> str | None:
    """Where the code is on the nodes; None where lmx is installed there."""
    if target.code == "snapshot":
        return str(plan.folder / "code")
    return None if target.code == "installed" else target.code
