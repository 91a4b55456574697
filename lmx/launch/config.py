"""The targets: what each needs to know. Values are in conf/target."""

from __future__ import annotations

from pathlib import Path

from lmx.config.component import field
from lmx.config.types import Duration, Positive, Text
from lmx.launch import gang
from lmx.launch.target import DEFAULT_GRACE, Attempt, Plan, Seen, Step, Target, read


class Processes(Target):
    """A target whose processes are started and looked after by the agent on each host."""

    def layout(self, plan: Plan) -> gang.Layout:
        """Hosts and processes."""
        raise NotImplementedError

    def steps(self, plan: Plan) -> list[Step]:
        """The calls of the agent on each host."""
        return gang.steps(plan, self.layout(plan))

    def start(self, plan: Plan, number: int, *, resume: bool = False) -> Attempt:
        """Starts the processes on all hosts at once."""
        return gang.start(plan, self.layout(plan), number, resume=resume)

    def poll(self, plan: Plan, attempt: Attempt, *, logs: bool = True) -> Seen:
        """Asks all hosts at once."""
        return gang.poll(plan, attempt, logs=logs)

    def stop(self, plan: Plan, attempt: Attempt, *, grace: float = DEFAULT_GRACE) -> list[str]:
        """Stops the processes on all hosts at once."""
        return gang.stop(plan, attempt, grace=grace)

    def sweep(self, plan: Plan, *, grace: float = DEFAULT_GRACE) -> list[str]:
        """Asks each host once for all attempts."""
        return gang.sweep(read(plan), grace=grace)

    def where(self, plan: Plan, attempt: Attempt) -> str | None:
        """On host 0, unless that is this machine."""
        return gang.where(attempt)

    def collect(self, plan: Plan, attempt: Attempt) -> list[str]:
        """Asks host 0."""
        return gang.collect(plan, attempt)


class Local(Processes):
    """Processes on this machine."""

    processes: Positive = field("how many processes share the run", effect="bookkeeping")
    devices: Positive | None = field(
        "virtual CPU devices of each process; null: the devices of the machine", effect="bookkeeping"
    )
    env: dict[str, Text] = field("variables of the environment of every process", effect="bookkeeping")

    def n_processes(self) -> int:
        """All on this machine."""
        return self.processes

    def layout(self, plan: Plan) -> gang.Layout:
        """All processes on one host."""
        from lmx.launch.local import layout

        return layout(self.processes, self.devices, self.env)


class Ssh(Processes):
    """Hosts that are reached by ssh. Checkpoints of several hosts need a file system that they share."""

    hosts: list[Text] | None = field("[user@]host[:port] of each host, host 0 first", effect="bookkeeping")
    hosts_file: Text | None = field("file with a host a line, after those of `hosts`", effect="bookkeeping")
    processes: Positive = field("processes on each host", effect="bookkeeping")
    devices: Positive | None = field(
        "virtual CPU devices of each process; null: the devices of the host", effect="bookkeeping"
    )
    ssh: Text = field("the OpenSSH client", effect="bookkeeping")
    options: list[Text] = field("further words for it, such as -i and a key", effect="bookkeeping")
    python: Text = field("the Python on the hosts that has lmx's packages", effect="bookkeeping")
    workdir: Text = field(
        "working directory on the hosts: runs/, code/, launches/ are made in it", effect="bookkeeping"
    )
    code: Text = field(
        "snapshot: this git checkout as it is now, what is not committed included; installed: the lmx that is "
        "installed there; else a folder on the hosts that holds lmx",
        effect="bookkeeping",
    )
    setup: Text | None = field(
        "shell command that each host runs once before the first run, its log kept in workdir/setup; null: none",
        effect="bookkeeping",
    )
    env: dict[str, Text] = field("variables of the environment of every process", effect="bookkeeping")
    coordinator: Text | None = field(
        "name or address of host 0 for the other hosts; null: its own that ssh has reached it by",
        effect="bookkeeping",
    )
    connect_timeout: Duration = field("how long a connection may take", unit="s", effect="bookkeeping")
    lost_after: Duration = field(
        "after how long without an answer a host counts as lost", unit="s", effect="bookkeeping"
    )

    def n_processes(self) -> int | None:
        """On all hosts, where they are listed."""
        known = self.hosts is not None and self.hosts_file is None
        return len(self.hosts or ()) * self.processes if known else None

    def check_request(self) -> None:
        """There are hosts, and a program to reach them."""
        from lmx.launch.ssh import check_request

        check_request(self)

    def takes_snapshot(self) -> bool:
        """Whether the code of this checkout is sent."""
        return self.code == "snapshot"

    def run_dir(self, path: Path) -> str:
        """runs/NAME in the working directory of the hosts."""
        return f"runs/{path.name}"

    def layout(self, plan: Plan) -> gang.Layout:
        """The hosts, with a port that is free on host 0."""
        from lmx.launch.ssh import layout

        return layout(self, plan)

    def check(self, plan: Plan) -> None:
        """Asks every host for its versions."""
        from lmx.launch.ssh import check

        check(self, plan)

    def prepare(self, plan: Plan) -> None:
        """Sends code, runs setup."""
        from lmx.launch.ssh import hosts_of, prepare

        prepare(self, plan, hosts_of(self))

    def steps(self, plan: Plan) -> list[Step]:
        """What would be asked of each host, the port of process 0 left open."""
        from lmx.launch.ssh import hosts_of, layout, prepare_steps

        return [*prepare_steps(self, plan, hosts_of(self)), *gang.steps(plan, layout(self, plan, port=0))]
