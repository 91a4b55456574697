"""`distributed`: the processes of one run, and how they find each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from lmx.config.component import Config, field
from lmx.config.types import Count, Duration, Positive, Text


class Distributed(Config):
    """Several processes that train one model, started with the same command, each on its own devices."""

    method: Literal["auto", "one", "explicit"] = field(
        "auto: what the environment says (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, SLURM, Open "
        "MPI, TPU metadata, GKE), else one process; one: this process alone; explicit: the keys below",
        effect="bookkeeping",
    )
    coordinator_address: Text | None = field(
        "host:port of process 0, which the others reach it at", effect="bookkeeping", example="host0:8476"
    )
    num_processes: Positive | None = field("how many there are", effect="bookkeeping")
    process_id: Count | None = field("which one this is, from 0", effect="bookkeeping")
    local_devices: list[Count] | None = field(
        "GPUs of this host that the process takes; null: all, or one each where SLURM starts several on a host",
        effect="bookkeeping",
    )
    initialization_timeout: Duration = field(
        "how long a process waits for all others", unit="s", effect="bookkeeping"
    )
    heartbeat_timeout: Duration = field(
        "after how long without a sign a process counts as dead and all others end",
        unit="s",
        effect="bookkeeping",
    )
    shutdown_timeout: Duration = field(
        "how long the end waits for all others", unit="s", effect="bookkeeping"
    )

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        wanted = {
            "coordinator_address": "host0:8476",
            "num_processes": 2,
            "process_id": 0,
        }
        if self.method != "explicit":
            for key in wanted:
                if getattr(self, key) is not None:
                    message = f"is not looked at with distributed.method={self.method}"
                    yield f"distributed.{key}", message, "distributed=explicit"
            return
        for key, example in wanted.items():
            if getattr(self, key) is None:
                yield (
                    f"distributed.{key}",
                    "is needed with distributed=explicit",
                    f"distributed.{key}={example}",
                )
        n, index, address = self.num_processes, self.process_id, self.coordinator_address
        if n is not None and index is not None and index >= n:
            message = f"{n} processes are counted from 0 to {n - 1}"
            yield "distributed.process_id", message, f"distributed.process_id={n - 1}"
        if address is not None and not address.rpartition(":")[2].isdecimal():
            yield (
                "distributed.coordinator_address",
                "needs a port",
                f"distributed.coordinator_address={address}:8476",
            )
