"""The JobSet of a run on GKE, as plain data: TPU slices as replicated jobs, one pod a host.

Names of node labels and of TPU types are those of GKE's documentation ("Plan TPUs in GKE"); the fields are those of
jobset.x-k8s.io/v1alpha2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lmx.config.errors import RequestError


class Chip(NamedTuple):
    """A TPU as GKE names it: the node label, and the chips of a host in slices of several hosts."""

    label: str
    chips_a_host: int
    dimensions: int


CHIPS = {
    "v4": Chip("tpu-v4-podslice", 4, 3),
    "v5e": Chip("tpu-v5-lite-podslice", 4, 2),
    "v5p": Chip("tpu-v5p-slice", 4, 3),
    "v6e": Chip("tpu-v6e-slice", 4, 2),
    "tpu7x": Chip("tpu7x", 4, 3),
}
SINGLE_HOST_8 = ("v5e", "v6e")
"""Types that also have hosts of 8 chips, for slices of one host."""


class Slice(NamedTuple):
    """One slice: node labels, hosts, chips of each host."""

    label: str
    topology: str
    hosts: int
    chips_a_host: int


def slice_of(accelerator: str, topology: str) -> Slice:
    """The hosts of a slice. RequestError for a type that GKE does not have, or a topology not of its shape."""
    chip = CHIPS.get(accelerator)
    if chip is None:
        raise RequestError(
            f"target.accelerator={accelerator}: there is no such TPU on GKE; {', '.join(CHIPS)}"
        )
    sizes = (
        [int(size) for size in topology.split("x")] if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", topology) else []
    )
    if len(sizes) != chip.dimensions:
        example = "x".join(["4"] * chip.dimensions)
        raise RequestError(
            f"target.topology={topology}: {accelerator} has {chip.dimensions} dimensions; target.topology={example}"
        )
    chips = math.prod(sizes)
    if chips <= chip.chips_a_host or (accelerator in SINGLE_HOST_8 and chips == 8):
        return Slice(chip.label, topology, 1, chips)
    if chips % chip.chips_a_host:
        raise RequestError(
            f"target.topology={topology}: {chips} chips are no whole number of hosts of {chip.chips_a_host} chips"
        )
    return Slice(chip.label, topology, chips // chip.chips_a_host, chip.chips_a_host)


class Job(NamedTuple):
    """What a JobSet is made of.

    command      words of every container
    files        name -> text, mounted at /etc/lmx
    exclusive    a slice's pods share a node pool with no other job
    """

    name: str
    namespace: str
    image: str
    command: list[str]
    files: Mapping[str, str]
    slice: Slice
    slices: int
    environment: Mapping[str, str]
    spot: bool
    reservation: str | None
    queue: str | None
    priority: str | None
    exclusive: bool
    max_restarts: int
    service_account: str | None
    memory: str | None
    ttl_s: int | None


def manifests(job: Job) -> list[dict[str, Any]]:
    """The ConfigMap with the frozen configuration, and the JobSet."""
    return [config_map(job), jobset(job)]


def config_map(job: Job) -> dict[str, Any]:
    """The frozen configuration as a ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": job.name, "namespace": job.namespace, "labels": {"app": "lmx"}},
        "data": dict(job.files),
    }


def jobset(job: Job) -> dict[str, Any]:
    """The JobSet: one replicated job, a replica a slice, a pod a host.

    A pod that ends with exit code 2 fails the whole JobSet at once; any other end of a pod starts all slices again,
    at most `max_restarts` times (the preemption of a pod counts as well: JobSet does not tell it apart).
    """
    metadata: dict[str, Any] = {"name": job.name, "namespace": job.namespace, "labels": {"app": "lmx"}}
    if job.exclusive:
        metadata["annotations"] = {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
        }
    if job.queue is not None:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = job.queue
    if job.priority is not None:
        metadata["labels"]["kueue.x-k8s.io/priority-class"] = job.priority
    spec: dict[str, Any] = {
        "failurePolicy": {
            "maxRestarts": job.max_restarts,
            "rules": [
                {
                    "name": "wrong-request",
                    "action": "FailJobSet",
                    "onJobFailureReasons": ["PodFailurePolicy"],
                },
            ],
        },
        "successPolicy": {"operator": "All"},
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "replicatedJobs": [{"name": "slice", "replicas": job.slices, "template": {"spec": _job_spec(job)}}],
    }
    if job.queue is not None:
        spec["suspend"] = True  # until Kueue admits it
    if job.ttl_s is not None:
        spec["ttlSecondsAfterFinished"] = job.ttl_s
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata, "spec": spec}


def _job_spec(job: Job) -> dict[str, Any]:
    return {
        "parallelism": job.slice.hosts,
        "completions": job.slice.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "lmx", "operator": "In", "values": [2]},
                }
            ]
        },
        "template": {"metadata": {"labels": {"app": "lmx"}}, "spec": _pod_spec(job)},
    }


def _pod_spec(job: Job) -> dict[str, Any]:
    selector = {
        "cloud.google.com/gke-tpu-accelerator": job.slice.label,
        "cloud.google.com/gke-tpu-topology": job.slice.topology,
    }
    if job.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    if job.reservation is not None:
        selector["cloud.google.com/reservation-name"] = job.reservation
    resources = {"google.com/tpu": str(job.slice.chips_a_host)}
    if job.memory is not None:
        resources["memory"] = job.memory
    container = {
        "name": "lmx",
        "image": job.image,
        "command": list(job.command),
        "env": [{"name": name, "value": value} for name, value in sorted(job.environment.items())],
        # JAX finds the coordinator of several slices, and GKE's variables say the rest.
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
        "resources": {"limits": resources, "requests": dict(resources)},
        "volumeMounts": [{"name": "lmx", "mountPath": "/etc/lmx", "readOnly": True}],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,
        "nodeSelector": selector,
        "containers": [container],
        "volumes": [{"name": "lmx", "configMap": {"name": job.name}}],
    }
    if job.spot:
        pod["tolerations"] = [
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        ]
    if job.service_account is not None:
        pod["serviceAccountName"] = job.service_account
    return pod
