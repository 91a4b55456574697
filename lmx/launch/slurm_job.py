"""A job of SLURM: what its programs say of it, asked for and read."""

from __future__ import annotations

import os
import re
import subprocess
import time
from typing import NamedTuple

from lmx.config.errors import RequestError
from lmx.launch.host import missing_program
from lmx.launch.target import Attempt

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
TAKEN = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "TIMEOUT", "DEADLINE", "REVOKED")
"""Ends of a job that are no fault of the run."""

FORGOTTEN = "FORGOTTEN"
UNTOLD = "UNTOLD"
"""States of our own: SLURM does not know the job any more; SLURM has never told."""

SUBMISSION = 60.0
"""After so many seconds a job that no one has seen was never submitted."""


class NoAnswer(Exception):
    """SLURM did not answer, or refused; its words."""


class Job(NamedTuple):
    """A job as SLURM tells it. `exit_code`: of its script; `restarts`: how often SLURM has started it again."""

    id: str | None = None
    state: str = UNTOLD
    reason: str = ""
    restarts: int = 0
    exit_code: int = 0
    nodes: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return self.state not in (*WAITING, *RUNNING, UNTOLD)


def call(*words: str, script: str = "") -> str:
    """What a program of SLURM prints, `script` being its standard input; NoAnswer with its complaint."""
    # Of a job that this terminal is in, nothing is handed down.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
    try:
        done = subprocess.run(
            words,
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        raise RequestError(missing_program("sbatch")) from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{words[0]} did not answer within 60 s") from None
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise NoAnswer("; ".join(said) or f"{words[0]} ended with exit code {done.returncode}")
    return done.stdout


def ask(attempt: Attempt) -> Job:
    """The job as SLURM knows it now; NoAnswer where SLURM does not answer."""
    job = attempt.handle["job"]
    if job is None:
        found = call(
            "squeue", "--noheader", "--states=all", f"--name={attempt.handle['name']}", "--format=%i"
        ).split()
        if not found:
            late = time.time() - attempt.handle["began"] > SUBMISSION
            return Job(None, FORGOTTEN if late else UNTOLD, "it was not submitted")
        job = found[-1]
    try:
        told = call("scontrol", "--oneliner", "show", "job", job)
    except NoAnswer as error:
        if "invalid job id" in str(error).lower():
            return Job(job, FORGOTTEN)
        raise
    return parse(job, told)


def parse(job: str, told: str) -> Job:
    """A line of `scontrol --oneliner show job`."""
    facts = dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", told))
    code, _, signal = facts.get("ExitCode", "0:0").partition(":")
    return Job(
        job,
        facts.get("JobState", UNTOLD).partition("+")[0],
        facts.get("Reason", "").replace("None", ""),
        int(facts.get("Restarts") or 0),
        int(code) or -int(signal or 0),
        facts.get("NodeList", "").replace("(null)", ""),
    )
