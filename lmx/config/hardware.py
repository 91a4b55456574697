"""Which accelerators a program is for, told without jax: those of a topology, or those that a run will have here.

Of those here the environment tells, the kernel's files, and metadata.
"""

from __future__ import annotations

import math
import os
import re
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/accelerator-type"
COUNTED_BY_CORES = ("v4", "v5p", "tpu7x")
"""Chips of two cores, whose slices are called by the number of cores: v5p-16 has 8 chips."""


@dataclass
class Described:
    """The devices of a composition, and whether anything was chosen by them; None: those here."""

    devices: str | None
    asked: bool = False


_described: ContextVar[Described | None] = ContextVar("described", default=None)


@contextmanager
def described(devices: str | None) -> Iterator[Described]:
    """Inside, `devices_at_hand` says `devices`; None changes nothing. Yields what tells whether it was asked."""
    outer = _described.get()
    told = Described(devices or (outer.devices if outer else None))
    token = _described.set(told)
    try:
        yield told
    finally:
        _described.reset(token)


def devices_at_hand() -> str:
    """The devices that a program is compiled for, where it is for others than those here; else `devices_here()`."""
    told = _described.get()
    if told is None:
        return devices_here()
    told.asked = True
    return told.devices or devices_here()


def devices_of_topology(topology: str, slices: int) -> str | None:
    """`2 x TPU v5p-128` for two slices of v5p:4x4x4, `8 x cpu` for cpu:8; None for what is no topology."""
    match = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", topology.strip().lower())
    if match is None:
        return None
    count = math.prod(int(n) for n in match[2].split("x"))
    if match[1] == "cpu":
        return f"{count} x cpu"
    name = f"TPU {match[1]}-{count * (2 if match[1] in COUNTED_BY_CORES else 1)}"
    return name if slices == 1 else f"{slices} x {name}"


def devices_here(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> str:
    """`8 x NVIDIA H100 80GB HBM3`, `16 x cpu`, `TPU v5p-256`, `4 x TPU v6e-256` (slices): of all hosts together.

    `root` is the folder that has `proc` and `dev` in it.
    """
    wanted = environment.get("JAX_PLATFORMS", "")
    if wanted.split(",")[0] not in ("cpu",):
        tpu = None if wanted.startswith(("cuda", "gpu")) else _tpu(environment, root)
        if tpu is not None:
            slices = environment.get("MEGASCALE_NUM_SLICES", "1")
            return f"TPU {tpu}" if slices == "1" else f"{slices} x TPU {tpu}"
        kinds = _gpus(environment, root)
        if kinds:
            hosts = int(environment.get("SLURM_JOB_NUM_NODES") or environment.get("SLURM_NNODES") or 1)
            return f"{len(kinds) * hosts} x {kinds[0]}"
    return f"{environment.get('JAX_NUM_CPU_DEVICES') or 1} x cpu"


def preset_for(devices: str, *rules: str) -> str:
    """The option of the first rule that fits; `rules` are pattern, option, pattern, option, ...

    A pattern is a regular expression, looked for anywhere in `devices`. ValueError where none fits.
    """
    if len(rules) % 2:
        raise ValueError(f"by_device takes pairs of a pattern and an option, got {len(rules)} arguments")
    for pattern, option in zip(rules[::2], rules[1::2], strict=True):
        if re.search(str(pattern), devices):
            return str(option)
    raise ValueError(f"by_device: no pattern fits {devices!r}; end the list with one that fits all, ''")


def _tpu(environment: Mapping[str, str], root: Path) -> str | None:
    """The accelerator type, such as `v5p-256`; None where there is no TPU."""
    found = environment.get("TPU_ACCELERATOR_TYPE")
    if not found:
        if not [*root.glob("dev/accel*"), *root.glob("dev/vfio/[0-9]*")]:
            return None
        try:
            request = urllib.request.Request(METADATA, headers={"Metadata-Flavor": "Google"})
            with urllib.request.urlopen(request, timeout=2) as answer:
                found = answer.read().decode().strip()
        except OSError:
            return None
    return re.sub(r"^v5lite(pod)?-", "v5e-", found)


def _gpus(environment: Mapping[str, str], root: Path) -> list[str]:
    """Names of the GPUs of this host that the process may use."""
    kinds = []
    for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        model = re.search(r"^Model:\s*(.+?)\s*$", path.read_text(errors="replace"), re.MULTILINE)
        kinds.append(model[1] if model else "NVIDIA")
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        kinds = kinds[: len([name for name in visible.split(",") if name.strip() not in ("", "-1")])]
    return kinds
