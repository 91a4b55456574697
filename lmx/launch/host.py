"""A host, and how something is asked of it: the agent's text goes to a Python there, one line of JSON comes back."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.launch import agent
from lmx.launch.target import Step

BOOT = (
    "import sys;b=sys.stdin.buffer;n=int(b.readline());exec(compile(b.read(n),'agent','exec'));"
    "main(json.loads(b.readline()),b.read())"
)
"""Reads the agent's length, the agent, a line of JSON, and bytes to the end."""

MARK = "lmx-agent "


class Unreachable(Exception):
    """A host that does not answer; the message names it and says why."""


class Host(NamedTuple):
    """name for people; `way`: the words before a shell command that runs on it, () for this machine."""

    name: str
    way: tuple[str, ...]
    python: str

    def argv(self) -> tuple[str, ...]:
        """The command that starts the agent."""
        if not self.way:
            return (self.python, "-c", BOOT)
        return (*self.way, f"{quote(self.python)} -c {shlex.quote(BOOT)}")

    def step(self, do: str, **arguments: Any) -> Step:
        """The same call, to be shown."""
        shown = json.dumps({"do": do, "with": arguments}, indent=1)
        return Step(self.argv(), input=f"lmx/launch/agent, then {shown}", where=self.name)

    def call(self, do: str, *, timeout: float, data: bytes = b"", **arguments: Any) -> Any:
        """The agent's answer. Unreachable where there is none, RequestError where the host refuses."""
        source = agent.source()
        request = json.dumps({"do": do, "with": arguments}).encode()
        text = b"%d\n%s%s\n%s" % (len(source), source, request, data)
        try:
            done = subprocess.run(self.argv(), input=text, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{self.name}: no answer within {timeout:.0f} s") from None
        except FileNotFoundError:
            raise RequestError(missing_program(self.argv()[0])) from None
        for line in reversed(done.stdout.decode(errors="replace").splitlines()):
            if line.startswith(MARK):
                answer = json.loads(line[len(MARK) :])
                if "error" in answer:
                    raise RequestError(f"{self.name}: {answer['error']}")
                return answer["answer"]
        raise _explained(self, done)


def _explained(host: Host, done: subprocess.CompletedProcess[bytes]) -> Exception:
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    last = said[-1].strip() if said else f"exit code {done.returncode}"
    if done.returncode == 255 and host.way:
        return Unreachable(f"{host.name}: {last}")
    if done.returncode == 127 or "not found" in last or "No such file" in last:
        return RequestError(
            f"{host.name}: there is no {host.python} ({last}); set target.python to a Python with lmx's packages there"
        )
    return Unreachable(f"{host.name}: {last} (exit code {done.returncode})")


_SLURM = "run this on a login node of the SLURM cluster, or print the script with dry_run=true"
CURES = {
    "ssh": "install an OpenSSH client (apt install openssh-client)",
    "git": "install git, or set target.code=installed",
    "gcloud": "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install), then: gcloud auth login",
    "kubectl": "install kubectl (gcloud components install kubectl), or print the manifest with dry_run=true",
    **dict.fromkeys(("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct"), _SLURM),
}


def missing_program(name: str) -> str:
    """What to say of a program that is not there."""
    return f"there is no program {name!r} here; {CURES.get(Path(name).name, 'install it, or put it on the PATH')}"


def quote(word: str) -> str:
    """A word for a shell; a leading ~ stays the home directory."""
    return f"~/{shlex.quote(word[2:])}" if word.startswith("~/") and len(word) > 2 else shlex.quote(word)


def here() -> Host:
    """This machine."""
    return Host("this machine", (), sys.executable)


def show(words: Sequence[str]) -> str:
    """A command as it is typed."""
    return shlex.join(words)
