"""Whether a mesh and the processes of a target go together, as far as that can be told before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lmx.launch.target import Target


def misfit(target: Target, axes: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """What is wrong with `mesh.axes` on this target, (key, message, fix); None where nothing is known to be."""
    processes, sizes = target.n_processes(), list(axes.values())
    if processes is None or not sizes or not all(isinstance(size, int) for size in sizes):
        return None
    product, devices = math.prod(sizes), getattr(target, "devices", None)
    if product == processes == 1:
        return None  # the first device
    if devices is None:
        fits = product >= processes
        there = f"the target starts {processes} processes, with a device each at least"
    else:
        fits = product == processes * devices
        there = f"the target has {processes * devices} devices ({processes} x {devices})"
    if fits:
        return None
    said = " x ".join(f"{name} {size}" for name, size in axes.items())
    fix = "mesh=fsdp" if product == 1 else f"mesh.axes.{next(iter(axes))}=auto"
    return "mesh.axes", f"{said}: {product} device{'s' if product > 1 else ''}, but {there}", fix
