"""The processes of one run: how they find each other, agree, and end together."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from lmx.config.errors import RequestError
from lmx.io import sinks
from lmx.run.hosts_config import Distributed

TPU_DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")


class Job(NamedTuple):
    """What `jax.distributed.initialize` needs; None: JAX finds it out by `method`.

    address         host:port of process 0
    local_devices   of this host, for this process; None: all
    """

    address: str | None = None
    processes: int | None = None
    index: int | None = None
    local_devices: list[int] | None = None
    method: str | None = "deactivate"


def _first_slurm_host(nodes: str) -> str:
    """The first name of `node[001-015,020],other`."""
    prefix, bracket, inside = nodes.partition("[")
    return nodes.split(",")[0] if not bracket or "," in prefix else prefix + re.split("[,-]", inside)[0]


def _slurm(environment: Mapping[str, str]) -> Job:
    """Of a step started by `srun`. One task on a host takes all its GPUs, several take one each."""
    port = 61440 + int(environment["SLURM_JOB_ID"]) % 4096
    alone = {count.partition("(")[0] for count in environment["SLURM_STEP_TASKS_PER_NODE"].split(",")} == {
        "1"
    }
    return Job(
        f"{_first_slurm_host(environment['SLURM_STEP_NODELIST'])}:{port}",
        int(environment["SLURM_STEP_NUM_TASKS"]),
        int(environment["SLURM_PROCID"]),
        None if alone else [int(environment["SLURM_LOCALID"])],
    )


def detect(environment: Mapping[str, str], *, tpu: bool) -> Job | None:
    """The job that the environment describes, None where it is one process. `tpu`: whether this host has TPU chips.

    RequestError where it describes half of one.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = {name: environment[name] for name in names if name in environment}
    if given:
        missing = [name for name in names if name not in given]
        if missing:
            raise RequestError(
                f"distributed: {', '.join(given)} is set, but not {' and '.join(missing)}; set all three, or "
                "distributed=one"
            )
        address, count, index = given.values()
        return Job(address, int(count), int(index)) if int(count) > 1 else None
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in environment:
        return _slurm(environment)
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return Job(method="ompi")
    if not tpu:
        return None
    workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if workers is not None:
        several = "," in workers or int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1
        return Job(method=None) if several else None
    return None if "TPU_SKIP_MDS_QUERY" in environment else Job(method=None)


def job_of(config: Distributed) -> Job | None:
    """The job of a configuration; None: one process."""
    if config.method == "one":
        return None
    if config.method == "explicit":
        return Job(config.coordinator_address, config.num_processes, config.process_id, config.local_devices)
    forced = "JAX_FORCE_TPU_INIT" in os.environ
    on_cpu = os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu" and not forced
    tpu = not on_cpu and (forced or any(glob.glob(path) for path in TPU_DEVICES))
    job = detect(os.environ, tpu=tpu)
    return (
        job
        if job is None or config.local_devices is None
        else job._replace(local_devices=config.local_devices)
    )


def join(config: Distributed) -> None:
    """Waits for the other processes of this run, where there are any. Before JAX is used for anything else."""
    job = job_of(config)
    if job is None or job.processes == 1:
        return
    if job.address is not None:
        print(
            f"lmx: process {job.index} of {job.processes}, waiting for the others at {job.address} "
            f"(at most {config.initialization_timeout:g} s)",
            file=sys.stderr,
        )
    _keep_stdout()
    try:
        jax.distributed.initialize(
            coordinator_address=job.address,
            num_processes=job.processes,
            process_id=job.index,
            local_device_ids=job.local_devices,
            cluster_detection_method=job.method,
            initialization_timeout=int(config.initialization_timeout),
            heartbeat_timeout_seconds=int(config.heartbeat_timeout),
            shutdown_timeout_seconds=int(config.shutdown_timeout),
        )
    except RuntimeError as error:
        if "RPC server" not in str(error):
            raise
        raise RequestError(
            f"distributed.coordinator_address={job.address}: process 0 cannot listen there ({error}); another port, "
            "or a host name of this machine"
        ) from None


def anyhow(node: Mapping[str, Any]) -> dict[str, Any]:
    """`distributed` as a run keeps it: how its processes found each other is no part of it, and differs next time."""
    return {**node, "method": "auto"} | dict.fromkeys(
        ("coordinator_address", "num_processes", "process_id", "local_devices")
    )


def _keep_stdout() -> None:
    """Gloo writes to the process's standard output, which is the result's: let it have standard error instead."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding)
    os.dup2(2, 1)


_TEXT = 4096


def of_first(text: str) -> str:
    """What process 0 calls this with. Every process calls it; at most 4096 bytes."""
    if jax.process_count() == 1:
        return text
    from jax.experimental.multihost_utils import broadcast_one_to_all

    data = np.frombuffer(text.encode(), np.uint8)
    padded = np.zeros(_TEXT, np.uint8)
    padded[: len(data)] = data
    return np.asarray(broadcast_one_to_all(padded)).astype(np.uint8).tobytes().rstrip(b"\0").decode()


def require_same(what: str, text: str) -> None:
    """RequestError on the processes whose `text` is not process 0's: two different commands are no run."""
    first = of_first(text)
    if first != text:
        raise RequestError(
            f"process {jax.process_index()} has another {what} than process 0: {text}, not {first}"
        )


def shared_folder(own: Path) -> Path:
    """The run directory of process 0, which all use; an empty one of this process's own is removed."""
    found = Path(of_first(str(own.absolute())))
    if found != own.absolute() and own.is_dir() and not any(own.iterdir()):
        own.rmdir()
    return found


MEET_S = 3600
"""How long the processes of a run wait for the slowest one, as long as it lives."""


def meet(where: str) -> None:
    """Waits until every process of the run has called this with the same words, which are used once; no device is.

    Raises what JAX raises where one of them is gone, or does not come within MEET_S.
    """
    if several():
        from jax._src import distributed

        distributed.global_state.client.wait_at_barrier(f"lmx/meet/{where}", 1000 * MEET_S)  # type: ignore[union-attr]


def log_name() -> str:
    """The file of the run directory that this process keeps its log in."""
    return sinks.log_name(jax.process_index())


def leave(code: int) -> NoReturn:
    """Ends this process at once, so that the others see it: a normal end would wait for them, and they for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def several() -> bool:
    """Whether this process has joined others."""
    return jax.process_count() > 1
