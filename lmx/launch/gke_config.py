"""Target `gke`: what it needs to know. Values are in conf/target/gke.yaml."""

from __future__ import annotations

from pathlib import Path

from lmx.config.component import field
from lmx.config.types import Count, Duration, Flag, Positive, Text
from lmx.launch.target import DEFAULT_GRACE, Attempt, Plan, Seen, Step, Target


class Gke(Target):
    """TPU slices of a GKE cluster, as a JobSet. What a run writes is on a volume of the cluster, not here."""

    accelerator: Text = field("type of TPU: v4, v5e, v5p, v6e or tpu7x", effect="bookkeeping")
    topology: Text = field("topology of each slice, such as 4x4 or 2x2x4", effect="bookkeeping")
    slices: Positive = field("how many slices", effect="bookkeeping")
    image: Text | None = field("image of the containers, with lmx's packages", effect="bookkeeping")
    claim: Text | None = field(
        "PersistentVolumeClaim for what runs write, ReadWriteMany", effect="bookkeeping"
    )
    bucket: Text | None = field(
        "bucket of Cloud Storage for what runs write, mounted by Cloud Storage FUSE", effect="bookkeeping"
    )
    mount: Text = field("folder in the containers where that is", effect="bookkeeping")
    code: Text = field(
        "snapshot: this git checkout as it is now, what is not committed included; installed: the lmx of the image; "
        "else a folder in the image that holds lmx",
        effect="bookkeeping",
    )
    python: Text = field("the Python in the image that has lmx's packages", effect="bookkeeping")
    setup: Text | None = field(
        "lines of sh that every container runs before it starts; null: none", effect="bookkeeping"
    )
    env: dict[str, Text] = field("variables of the environment of every process", effect="bookkeeping")
    kubectl: Text = field("the Kubernetes client", effect="bookkeeping")
    context: Text | None = field("kubectl --context; null: the current one", effect="bookkeeping")
    namespace: Text | None = field("kubectl --namespace; null: that of the context", effect="bookkeeping")
    spot: Flag = field("whether to take spot nodes", effect="bookkeeping")
    reservation: Text | None = field("reservation that the nodes belong to; null: none", effect="bookkeeping")
    queue: Text | None = field("LocalQueue of Kueue; null: without Kueue", effect="bookkeeping")
    priority: Text | None = field("WorkloadPriorityClass of Kueue; null: its default", effect="bookkeeping")
    exclusive: Flag = field("whether a slice shares its node pool with nothing else", effect="bookkeeping")
    max_restarts: Count = field(
        "how often the JobSet itself starts all slices again after a failure", effect="bookkeeping"
    )
    grace: Duration = field(
        "how long a container has to write a checkpoint when it is stopped or preempted",
        unit="s",
        effect="bookkeeping",
    )
    service_account: Text | None = field(
        "Kubernetes service account of the pods; null: default", effect="bookkeeping"
    )
    memory: Text | None = field("memory of each container; null: not asked for", effect="bookkeeping")
    ttl: Duration | None = field(
        "how long an ended JobSet is kept where nobody looks after the run; null: for ever",
        unit="s",
        effect="bookkeeping",
    )
    ask_every: Duration = field("the cluster is not asked more often", unit="s", effect="bookkeeping")

    def check_request(self) -> None:
        """There is such a slice, an image, and a place for what the run writes."""
        from lmx.launch.gke import check_request

        check_request(self)

    def check_code(self, archive: Path) -> None:
        """See `Target`: it goes into a ConfigMap."""
        from lmx.launch.gke_manifest import check_size, packed

        check_size(len(packed(archive)), archive)

    def takes_snapshot(self) -> bool:
        """Whether the code of this checkout is sent."""
        return self.code == "snapshot"

    def run_dir(self, path: Path) -> str:
        """runs/NAME on the volume."""
        return f"{self.mount.rstrip('/')}/runs/{path.name}"

    def check(self, plan: Plan) -> None:
        """Asks the cluster whether it would take the JobSet."""
        from lmx.launch.gke import check

        check(self, plan)

    def steps(self, plan: Plan) -> list[Step]:
        """The manifest, and the command that sends it."""
        from lmx.launch.gke import steps

        return steps(self, plan)

    def prepare(self, plan: Plan) -> None:
        """Nothing: code and configuration go with the JobSet."""

    def start(self, plan: Plan, number: int, *, resume: bool = False) -> Attempt:
        """Sends the JobSet; it goes on from the newest checkpoint by itself."""
        from lmx.launch.gke import start

        return start(self, plan, number)

    def poll(self, plan: Plan, attempt: Attempt, *, logs: bool = True) -> Seen:
        """Asks the cluster about the JobSet and its pods."""
        from lmx.launch.gke import poll

        return poll(self, plan, attempt, driving=logs)

    def stop(self, plan: Plan, attempt: Attempt, *, grace: float = DEFAULT_GRACE) -> list[str]:
        """Deletes the JobSet, and waits for its pods to end."""
        from lmx.launch.gke import stop

        return stop(self, plan, attempt, grace=grace)

    def release(self, plan: Plan) -> list[str]:
        """Deletes what is left of the run in the cluster; what it has written stays."""
        from lmx.launch.gke import release

        return release(self, plan)
