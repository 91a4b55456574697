"""`topology=` of a review: any slice of TPUs, any number of GPUs, or what the mesh's preset was made for."""

from __future__ import annotations

import math
import re

from lmx.chips import CHIPS, chip_named
from lmx.config.errors import RequestError
from lmx.config.mesh import Mesh
from lmx.review.target import Target
from lmx.run.topology import parse_topology, shapes_of

GPUS_OF_A_HOST = 8
_GPUS = tuple(chip.name for chip in CHIPS if not chip.kind.startswith("TPU"))


def target_of(topology: str | None, slices: int | None, mesh: Mesh) -> Target:
    """The devices of `topology` and `slices`, else those of the mesh's preset, else CPUs; RequestError.

    Without `slices` there are as many as a mesh axis of `slices` wants to cross, of a preset, or one.
    """
    if topology is None:
        found = _of_preset(mesh) or _cpus(mesh)
        return found if slices is None else _times(found, slices)
    match = re.fullmatch(r"([a-z0-9_]+):(\d+)", topology.strip().lower())
    if match is not None and match[1] in _GPUS:
        if slices is not None:
            raise RequestError(f"slices={slices}: {topology} counts all GPUs; leave slices out")
        n = int(match[2])
        if n == 0 or (n > GPUS_OF_A_HOST and n % GPUS_OF_A_HOST):
            near = max(round(n / GPUS_OF_A_HOST), 1) * GPUS_OF_A_HOST
            raise RequestError(
                f"topology={topology}: hosts have {GPUS_OF_A_HOST} GPUs each; topology={match[1]}:{near}"
            )
        return Target(f"{match[1]}:{n}", chip_named(match[1]), n, max(n // GPUS_OF_A_HOST, 1))
    try:
        parsed = parse_topology(topology)
    except RequestError as error:
        raise RequestError(f"{error}; of GPUs {', '.join(_GPUS)}, such as h100:64") from None
    n = slices or 1
    return Target(str(parsed), chip_named(parsed.chip), parsed.chips * n, n)


def _times(target: Target, slices: int) -> Target:
    if target.platform == "gpu":
        raise RequestError(f"slices={slices}: hosts of GPUs have {GPUS_OF_A_HOST}; leave slices out")
    of_one = target.devices // target.slices
    return target._replace(devices=of_one * slices, slices=slices)


def _of_preset(mesh: Mesh) -> Target | None:
    """The hardware that a preset names: `v5p_128` has as many chips as its mesh, `v6e_256_4` four slices."""
    match = re.fullmatch(r"([a-z]+\d+[a-z]*)_(\d+)(?:_(\d+))?", mesh.preset or "")
    chip = None if match is None else chip_named(match[1])
    if match is None or chip is None:
        return None
    slices = int(match[3] or 1)
    sizes = [slices if size == "slices" else size for size in mesh.axes.values()]
    if "auto" in sizes:
        return None
    devices = math.prod(n for n in sizes if isinstance(n, int))
    if chip.name in _GPUS:
        return Target(f"{chip.name}:{devices}", chip, devices, max(devices // GPUS_OF_A_HOST, 1))
    shape = next((s for s in shapes_of(chip.name) if math.prod(s) * slices == devices), None)
    if shape is None:
        return None
    return Target(f"{chip.name}:{'x'.join(map(str, shape))}", chip, devices, slices)


def _cpus(mesh: Mesh) -> Target:
    devices = math.prod(size for size in mesh.axes.values() if isinstance(size, int))
    return Target(f"cpu:{devices}", None, devices, 1)
