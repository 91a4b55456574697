"""The targets: what each needs to know. Values are in conf/target."""

from __future__ import annotations

from lmx.config.component import field
from lmx.config.types import Positive, Text
from lmx.launch import gang
from lmx.launch.target import DEFAULT_GRACE, Attempt, Plan, Seen, Step, Target


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
        return gang.stop(attempt, grace=grace)


class Local(Processes):
    """Processes on this machine."""

    processes: Positive = field("how many processes share the run", effect="bookkeeping")
    devices: Positive | None = field(
        "virtual CPU devices of each process; null: the devices of the machine", effect="bookkeeping"
    )
    env: dict[str, Text] = field("variables of the environment of every process", effect="bookkeeping")

    def layout(self, plan: Plan) -> gang.Layout:
        """All processes on one host."""
        from lmx.launch.local import layout

        return layout(self, plan)
