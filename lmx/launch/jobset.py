"""The JobSet of a run on GKE, as plain data: TPU slices as replicated jobs, one pod a host.

Names of node labels and of TPU types are those of GKE's documentation ("Plan TPUs in GKE"); the fields are those of
jobset.x-k8s.io/v1alpha2, of JobSet 0.10 or newer.
"""

from __future__ import annotations

import base64
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


FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SMALL_CUBES = ("1x1x1", "1x2x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4")
"""Topologies of two dimensions, and those of three below 64 chips; from there on each side is a multiple of 4
(https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus)."""


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
    small = FLAT if chip.dimensions == 2 else SMALL_CUBES
    if topology not in small and (chip.dimensions == 2 or any(size % 4 for size in sizes)):
        beyond = "" if chip.dimensions == 2 else ", and sides that are multiples of 4"
        raise RequestError(
            f"target.topology={topology}: {accelerator} has no such slices; there are {', '.join(small)}{beyond}"
        )
    chips = math.prod(sizes)
    if chips <= chip.chips_a_host or (accelerator in SINGLE_HOST_8 and chips == 8):
        return Slice(chip.label, topology, 1, chips)
    return Slice(chip.label, topology, chips // chip.chips_a_host, chip.chips_a_host)


RUN_LABEL, ATTEMPT_LABEL = "lmx-run", "lmx-attempt"
"""On the JobSet, its pods and its ConfigMap: the run, and the attempt, whose name is that of the JobSet."""

JOB_INDEX = "jobset.sigs.k8s.io/job-index"
RESTART = "jobset.sigs.k8s.io/restart-attempt"
"""Labels and annotations that JobSet gives its pods: which slice, and how often everything was started again before."""

FILES = "/etc/lmx"
WRONG_REQUEST, PREEMPTED = 2, 75


class Job(NamedTuple):
    """What a JobSet is made of.

    run          label of all attempts of the run
    command      words of every container
    files        name -> text or bytes, mounted at /etc/lmx
    claim bucket the volume for what runs write, mounted at `mount`: one of the two
    exclusive    a slice's pods share a node pool with no other job
    grace_s      between SIGTERM and SIGKILL
    """

    name: str
    run: str
    namespace: str | None
    image: str
    command: list[str]
    files: Mapping[str, str | bytes]
    slice: Slice
    slices: int
    environment: Mapping[str, str]
    claim: str | None
    bucket: str | None
    mount: str
    spot: bool
    reservation: str | None
    queue: str | None
    priority: str | None
    exclusive: bool
    max_restarts: int
    grace_s: int
    service_account: str | None
    memory: str | None
    ttl_s: int | None


def manifests(job: Job) -> list[dict[str, Any]]:
    """The ConfigMap and the JobSet."""
    return [config_map(job), jobset(job)]


def _labels(job: Job) -> dict[str, str]:
    return {"app": "lmx", RUN_LABEL: job.run, ATTEMPT_LABEL: job.name}


def _metadata(job: Job) -> dict[str, Any]:
    place = {} if job.namespace is None else {"namespace": job.namespace}
    return {"name": job.name, **place, "labels": _labels(job)}


def config_map(job: Job) -> dict[str, Any]:
    """The files as a ConfigMap: the frozen configuration, the script of a container, the code."""
    texts = {name: data for name, data in job.files.items() if isinstance(data, str)}
    binary = {name: data for name, data in job.files.items() if isinstance(data, bytes)}
    built: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job),
        "data": texts,
    }
    if binary:
        built["binaryData"] = {name: base64.b64encode(data).decode() for name, data in binary.items()}
    return built


def jobset(job: Job) -> dict[str, Any]:
    """The JobSet: one replicated job, a replica a slice, a pod a host.

    A pod that ends with exit code 2 fails the whole JobSet at once. One that was preempted, or ended with exit code 75,
    starts all slices again without counting; any other end does so at most `max_restarts` times.
    """
    metadata = _metadata(job)
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
            # JobSet sees why a job failed, not with which code: the rule of the job that it fell under tells.
            "rules": [
                _rule("wrongRequest", "FailJobSet", 0),
                _rule("resumable", "RestartJobSetAndIgnoreMaxRestarts", 1),
                _rule("disrupted", "RestartJobSetAndIgnoreMaxRestarts", 2),
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


def _rule(name: str, action: str, index: int) -> dict[str, Any]:
    return {
        "name": name,
        "action": action,
        "onJobFailureReasons": ["PodFailurePolicy"],
        "onJobFailureMessagePatterns": [f"matching FailJob rule at index {index}$"],
    }


def _job_spec(job: Job) -> dict[str, Any]:
    codes = [
        {"action": "FailJob", "onExitCodes": {"containerName": "lmx", "operator": "In", "values": [code]}}
        for code in (WRONG_REQUEST, PREEMPTED)
    ]
    disrupted = {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    return {
        "parallelism": job.slice.hosts,
        "completions": job.slice.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [*codes, disrupted]},
        "template": {"metadata": _pod_metadata(job), "spec": _pod_spec(job)},
    }


def _pod_metadata(job: Job) -> dict[str, Any]:
    metadata: dict[str, Any] = {"labels": _labels(job)}
    if job.bucket is not None:
        metadata["annotations"] = {"gke-gcsfuse/volumes": "true"}
    return metadata


def _volume(job: Job) -> dict[str, Any]:
    """The volume for what runs write."""
    if job.bucket is None:
        return {"name": "runs", "persistentVolumeClaim": {"claimName": job.claim}}
    attributes = {"bucketName": job.bucket, "mountOptions": "implicit-dirs"}
    return {"name": "runs", "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}}


def _environment(job: Job) -> list[dict[str, Any]]:
    told = {"LMX_SLICE": JOB_INDEX, "LMX_RESTART": RESTART}
    read = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{label}']"}}}
        for name, label in told.items()
    ]
    return [*({"name": name, "value": value} for name, value in sorted(job.environment.items())), *read]


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
        "env": _environment(job),
        # JAX finds the coordinator of several slices, and GKE's variables say the rest.
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
        "resources": {"limits": resources, "requests": dict(resources)},
        "volumeMounts": [
            {"name": "lmx", "mountPath": FILES, "readOnly": True},
            {"name": "runs", "mountPath": job.mount},
        ],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace_s,
        "nodeSelector": selector,
        "containers": [container],
        "volumes": [{"name": "lmx", "configMap": {"name": job.name}}, _volume(job)],
    }
    if job.spot:
        pod["tolerations"] = [
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        ]
    if job.service_account is not None:
        pod["serviceAccountName"] = job.service_account
    return pod
