"""Target `tpu_vm`: its keys. Values are in conf/target/tpu_vm.yaml."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

from lmx.config.component import field
from lmx.config.types import Duration, Flag, Positive, Text
from lmx.launch import gang
from lmx.launch.config import Processes
from lmx.launch.target import DEFAULT_GRACE, Attempt, Plan, Seen, Step

RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
"""The runtime version that Google's documentation names for JAX on each type."""

_CORES = ("v2", "v3", "v4", "v5p")
"""Types whose accelerator type counts cores, two a chip; the others count chips."""


class TpuVm(Processes):
    """Cloud TPU VMs: made, waited for, set up and deleted through gcloud; their processes are reached by ssh."""

    name: Text | None = field(
        "name of the pod, a queued resource or a TPU VM; one that is there already is used, and not deleted at the "
        "end; null: one is made for the run and named after it",
        effect="bookkeeping",
    )
    create: Literal["missing", "never"] = field("when a queued resource is made", effect="bookkeeping")
    recreate: Flag = field(
        "whether a queued resource that is SUSPENDED or FAILED is deleted and made again",
        effect="bookkeeping",
    )
    keep: Flag = field("whether a pod that was made for the run stays at its end", effect="bookkeeping")
    project: Text | None = field("Google Cloud project; null: as gcloud is set", effect="bookkeeping")
    zone: Text | None = field("zone; null: as gcloud is set", effect="bookkeeping")
    accelerator_type: Text | None = field(
        "type and size of a slice in one word: v4-32, v5litepod-16, v6e-8", effect="bookkeeping"
    )
    type: Text | None = field("type of the chips, beside a topology", effect="bookkeeping")
    topology: Text | None = field("how the chips of a slice are laid out: 2x2x4", effect="bookkeeping")
    count: Positive = field("how many slices", effect="bookkeeping")
    runtime_version: Text | None = field("the image of the workers", effect="bookkeeping")
    spot: Flag = field("cheaper, and taken away at any time", effect="bookkeeping")
    reserved: Flag = field("from the project's reservation", effect="bookkeeping")
    network: Text | None = field("network of the workers; null: the default", effect="bookkeeping")
    subnetwork: Text | None = field("part of that network; null: the default", effect="bookkeeping")
    service_account: Text | None = field("whom the workers act as; null: the default", effect="bookkeeping")
    options: list[Text] = field("further words for the creation", effect="bookkeeping")
    wait: Duration | None = field(
        "how long a pod may take until it is ready; null: no limit", unit="s", effect="bookkeeping"
    )
    ask_every: Duration = field("how often gcloud is asked about the pod", unit="s", effect="bookkeeping")
    connect: Literal["external", "internal", "iap"] = field(
        "how workers are reached: by their external or internal addresses, or through an IAP tunnel",
        effect="bookkeeping",
    )
    user: Text | None = field("user on the workers; null: as gcloud has it", effect="bookkeeping")
    ssh_options: list[Text] = field("further words for ssh", effect="bookkeeping")
    gcloud: Text = field("the gcloud program", effect="bookkeeping")
    boot_python: Text = field(
        "the Python that a fresh worker has (3.8 or newer), which brings the code and runs the setup",
        effect="bookkeeping",
    )
    python: Text = field("the Python that has lmx's packages, there after the setup", effect="bookkeeping")
    workdir: Text = field(
        "working directory on each worker's own disk: code/, setup/, launches/ are made in it",
        effect="bookkeeping",
    )
    runs: Text | None = field(
        "folder of run directories on storage that outlives the pod and that all workers mount, such as Filestore or "
        "a bucket; null: workdir/runs on the worker's own disk, which goes with the pod",
        effect="bookkeeping",
    )
    code: Text = field(
        "snapshot: this git checkout as it is now; installed: the lmx that the setup installs; else a folder on the "
        "workers",
        effect="bookkeeping",
    )
    setup: Text | None = field(
        "shell command that each worker runs once, its log kept in workdir/setup; {code} is the folder of the code",
        effect="bookkeeping",
    )
    devices: Positive | None = field(
        "virtual CPU devices of each process in place of the TPU; null: the TPU", effect="bookkeeping"
    )
    env: dict[str, Text] = field("variables of the environment of every process", effect="bookkeeping")
    connect_timeout: Duration = field("how long a connection may take", unit="s", effect="bookkeeping")
    lost_after: Duration = field(
        "after how long without an answer a worker counts as lost", unit="s", effect="bookkeeping"
    )

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between its keys, and checkpoints that would go with the pod."""
        return [*self._shape_problems(), *self._storage_problems()]

    def _shape_problems(self) -> list[tuple[str, str, str]]:
        found = []
        if self.create == "never":
            if self.name is None:
                found.append(("target.name", "which pod? target.create=never makes none", "target.name=POD"))
            return found
        if self.accelerator_type is None and (self.type is None or self.topology is None):
            message = "which TPU? Either target.accelerator_type, or target.type with target.topology"
            found.append(("target.accelerator_type", message, "target.accelerator_type=v5litepod-16"))
        elif self.accelerator_type is not None and (self.type is not None or self.topology is not None):
            message = "given beside target.type or target.topology; one way to say it is enough"
            found.append(("target.accelerator_type", message, "target.accelerator_type=null"))
        elif generation(self) == "tpu7x":
            message = "this TPU is served by GKE alone; gcloud makes no VMs of it"
            found.append(("target.accelerator_type", message, "target=gke"))
        elif workers(self) is None:
            message = "no size can be read from it; written v4-32, v5litepod-16, or type=v4 topology=2x2x4"
            key = "accelerator_type" if self.accelerator_type is not None else "topology"
            found.append((f"target.{key}", message, "target.accelerator_type=v5litepod-16"))
        if self.runtime_version is None:
            fitting = RUNTIMES.get(generation(self), "tpu-ubuntu2204-base")
            found.append(("target.runtime_version", "which image?", f"target.runtime_version={fitting}"))
        if self.spot and self.reserved:
            found.append(("target.spot", "spot and reserved exclude each other", "target.reserved=false"))
        return found

    def _storage_problems(self) -> list[tuple[str, str, str]]:
        fix = "target.runs=/mnt/runs"
        if self.runs is not None:
            if not self.runs.startswith("/"):
                return [("target.runs", "an absolute folder on the workers is needed", fix)]
            return []
        several = self.count > 1 or (workers(self) or 1) > 1
        cases = {
            "several workers save checkpoints together, and their own disks are not shared": several,
            "a spot pod is taken away with its disk, and the checkpoints on it": self.spot,
            "a pod that is made again has a new disk, without the checkpoints": self.recreate,
            "the pod is deleted at the end, with the checkpoints on its disk; target.keep=true leaves it": (
                self.create == "missing" and not self.keep
            ),
        }
        reasons = [reason for reason, holds in cases.items() if holds]
        if not reasons:
            return []
        message = (
            f"{reasons[0]}: name a folder on storage that outlives the pod, which target.setup mounts on all"
        )
        return [("target.runs", message, fix)]

    def check_request(self) -> None:
        """There are the programs that it needs."""
        from lmx.launch.tpu_vm import check_request

        check_request(self)

    def takes_snapshot(self) -> bool:
        """Whether the code of this checkout is sent."""
        return self.code == "snapshot"

    def run_dir(self, path: Path) -> str:
        """NAME in `runs`, or in the working directory of the workers."""
        return f"{(self.runs or 'runs').rstrip('/')}/{path.name}"

    def layout(self, plan: Plan) -> gang.Layout:
        """The workers of the pod, as they were found last."""
        from lmx.launch.tpu_vm import layout

        return layout(self, plan)

    def check(self, plan: Plan) -> None:
        """Asks gcloud for the pod: credentials, project, zone and state."""
        from lmx.launch.tpu_vm import check

        check(self, plan)

    def prepare(self, plan: Plan) -> None:
        """Makes the pod, waits until it is ready, sets its workers up."""
        from lmx.launch.tpu_vm import prepare

        prepare(self, plan)

    def renew(self, plan: Plan) -> None:
        """Makes a pod again that is gone, where that is asked for."""
        from lmx.launch.tpu_vm import renew

        renew(self, plan)

    def taken(self, plan: Plan) -> bool:
        """Asks gcloud."""
        from lmx.launch.tpu_vm import taken

        return taken(self, plan)

    def steps(self, plan: Plan) -> list[Step]:
        """What would be asked of gcloud and of the workers; their addresses are known once they are there."""
        from lmx.launch.tpu_vm_dry import steps

        return steps(self, plan)

    def start(self, plan: Plan, number: int, *, resume: bool = False) -> Attempt:
        """Starts the processes on all workers; a pod that is gone is made again first, where that is asked for."""
        from lmx.launch.tpu_vm import start

        return start(self, plan, number, resume=resume)

    def poll(self, plan: Plan, attempt: Attempt, *, logs: bool = True) -> Seen:
        """Asks all workers at once, and gcloud where one does not answer or has failed."""
        from lmx.launch.tpu_vm import poll

        return poll(self, plan, attempt, logs=logs)

    def stop(self, plan: Plan, attempt: Attempt, *, grace: float = DEFAULT_GRACE) -> list[str]:
        """Stops the processes on all workers at once; the pod stays."""
        return gang.stop(plan, attempt, grace=grace)

    def sweep(self, plan: Plan, *, grace: float = DEFAULT_GRACE) -> list[str]:
        """The same for all attempts, where the pod is not one that went with the run."""
        from lmx.launch.tpu_pod import record

        if record(plan).get("made") and not self.keep:
            return []
        return super().sweep(plan, grace=grace)

    def release(self, plan: Plan) -> list[str]:
        """Deletes the pod that was made for the run."""
        from lmx.launch.tpu_vm import release

        return release(self, plan)


def generation(target: TpuVm) -> str:
    """`v5litepod` of v5litepod-16; the type where it is given beside a topology."""
    word = target.accelerator_type or target.type or ""
    return word.lower().rpartition("-")[0] if "-" in word else word.lower()


def workers(target: TpuVm) -> int | None:
    """Hosts of one slice; None where nothing can be read from type and topology.

    A host has 4 chips; slices of 1, 4 and 8 chips of v5e and v6e are one host.
    """
    name = generation(target)
    if target.accelerator_type is not None:
        size = target.accelerator_type.rpartition("-")[2]
        if not size.isdecimal() or not name:
            return None
        chips = int(size) // 2 if name in _CORES else int(size)
    elif target.topology is not None and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", target.topology):
        chips = math.prod(map(int, target.topology.split("x")))
    else:
        return None
    alone = 4 if name in _CORES else 8
    return 1 if chips <= alone else math.ceil(chips / 4)
