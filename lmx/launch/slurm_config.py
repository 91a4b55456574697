"""Target `slurm`: what it needs to know. Values are in conf/target/slurm.yaml."""

from __future__ import annotations

from lmx.config.component import field
from lmx.config.types import Duration, Flag, Positive, Text
from lmx.launch.target import DEFAULT_GRACE, Attempt, Plan, Seen, Step, Target


class Slurm(Target):
    """Nodes of a SLURM cluster, as one job. The run's directory is on a file system that all nodes share."""

    partition: Text | None = field("sbatch --partition; null: the cluster's default", effect="bookkeeping")
    account: Text | None = field("sbatch --account; null: the user's default", effect="bookkeeping")
    nodes: Positive = field("how many nodes", effect="bookkeeping")
    processes: Positive = field(
        "processes on each node: one that takes all its GPUs, or one for each GPU", effect="bookkeeping"
    )
    gpus: Positive | None = field("GPUs on each node; null: not asked for", effect="bookkeeping")
    cpus: Positive | None = field("CPUs for each process; null: the cluster's default", effect="bookkeeping")
    memory: Text | None = field(
        "sbatch --mem, on each node; null: the cluster's default", effect="bookkeeping"
    )
    time: Duration | None = field(
        "time limit of a job; null: the partition's", unit="s", effect="bookkeeping", example="12h"
    )
    requeue: Flag = field(
        "whether SLURM itself starts the job again, after a preemption and where it was stopped resumably; false: "
        "lmx launch submits another one",
        effect="bookkeeping",
    )
    signal_lead: Duration | None = field(
        "how long before the time limit the processes are asked to write a checkpoint; null: never",
        unit="s",
        effect="bookkeeping",
    )
    wait: Duration = field(
        "how long the other processes may go on after the first one has ended", unit="s", effect="bookkeeping"
    )
    options: list[Text] = field("further options of sbatch", effect="bookkeeping")
    srun_options: list[Text] = field("further options of srun", effect="bookkeeping")
    devices: Positive | None = field(
        "virtual CPU devices of each process; null: the devices of the node", effect="bookkeeping"
    )
    python: Text = field("the Python on the nodes that has lmx's packages", effect="bookkeeping")
    code: Text = field(
        "snapshot: this git checkout as it is now, what is not committed included; installed: the lmx that is "
        "installed there; else a folder on the nodes that holds lmx",
        effect="bookkeeping",
    )
    setup: Text | None = field(
        "lines of bash that each job runs on its first node before the processes start; null: none",
        effect="bookkeeping",
    )
    env: dict[str, Text] = field("variables of the environment of every process", effect="bookkeeping")
    ask_every: Duration = field(
        "SLURM itself is not asked more often than this", unit="s", effect="bookkeeping"
    )

    def n_processes(self) -> int:
        """On all nodes."""
        return self.nodes * self.processes

    def takes_snapshot(self) -> bool:
        """Whether the code of this checkout is sent."""
        return self.code == "snapshot"

    def check(self, plan: Plan) -> None:
        """Asks SLURM whether it would take the job."""
        from lmx.launch.slurm import check

        check(self, plan)

    def steps(self, plan: Plan) -> list[Step]:
        """The scripts and their submission."""
        from lmx.launch.slurm import steps

        return steps(self, plan)

    def prepare(self, plan: Plan) -> None:
        """Unpacks the code beside the plan."""
        from lmx.launch.slurm import prepare

        prepare(self, plan)

    def start(self, plan: Plan, number: int, *, resume: bool = False) -> Attempt:
        """Submits the job; it goes on from the newest checkpoint by itself."""
        from lmx.launch.slurm import start

        return start(self, plan, number)

    def poll(self, plan: Plan, attempt: Attempt, *, logs: bool = True) -> Seen:
        """Asks SLURM about the job, and the shared folder about its processes."""
        from lmx.launch.slurm import poll

        return poll(self, plan, attempt, driving=logs)

    def stop(self, plan: Plan, attempt: Attempt, *, grace: float = DEFAULT_GRACE) -> list[str]:
        """Ends the job."""
        from lmx.launch.slurm import stop

        return stop(plan, attempt, grace=grace)
