"""`topology=v5p:4x4x4`: the devices of a TPU slice that is not here, for compiling only; `cpu:8`: virtual ones.

The compiler of a TPU needs no TPU: it comes with libtpu, and describes any slice.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from lmx.chips import chip_named
from lmx.config.errors import RequestError

_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_LARGEST = {"v4": (16, 16, 16), "v5p": (16, 20, 28), "tpu7x": (16, 24, 24)}
_FLAT_CHIPS = ("v5e", "v6e")
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}
_ALSO_CALLED = {"v5litepod": "v5e", "v5": "v5p", "trillium": "v6e", "v7x": "tpu7x", "ironwood": "tpu7x"}
MOST_CPU_DEVICES = 512
INSTALL = "pip install -e '.[tpu]' (of an installed lmx: pip install 'lmx[tpu]')"


class Topology(NamedTuple):
    """A kind of chip and the shape of a slice of them; `cpu` has one dimension."""

    chip: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.chip}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """Of one slice."""
        return math.prod(self.shape)


def shapes_of(chip: str) -> list[tuple[int, ...]]:
    """Slices that there are, the smallest first. Beyond a cube of 4x4x4 they are whole cubes."""
    if chip in _FLAT_CHIPS:
        return list(_FLAT)
    a, b, c = _LARGEST[chip]
    cubes = [(x, y, z) for x in range(4, a + 1, 4) for y in range(x, b + 1, 4) for z in range(y, c + 1, 4)]
    return sorted([*_SMALL, *cubes], key=lambda s: (math.prod(s), s[-1]))


def parse_topology(text: str) -> Topology:
    """A topology that exists; RequestError with the nearest ones otherwise."""
    names = [*_FLAT_CHIPS, *_LARGEST, "cpu"]
    match = re.fullmatch(r"([a-z0-9]+)[:\-](\d+(?:x\d+)*)", text.strip().lower())
    if match is None:
        raise RequestError(
            f"topology={text}: expected a chip and a shape, such as v5e:4x4, v5p:4x4x4, v6e:16x16, cpu:8; "
            f"the chips are {', '.join(names)}"
        )
    chip, shape = match[1], tuple(int(n) for n in match[2].split("x"))
    if chip not in names:
        near = _ALSO_CALLED.get(chip) or next(
            iter(difflib.get_close_matches(chip, names, n=1, cutoff=0.6)), "cpu"
        )
        hint = "" if near == "cpu" else f"; did you mean {_nearest(near, shape, text)}?"
        raise RequestError(
            f"topology={text}: there is no chip {chip!r}; the chips are {', '.join(names)}{hint}"
        )
    if chip == "cpu":
        if len(shape) == 1 and 1 <= shape[0] <= MOST_CPU_DEVICES:
            return Topology(chip, shape)
        raise RequestError(
            f"topology={text}: cpu takes a number of devices up to {MOST_CPU_DEVICES}, such as cpu:8"
        )
    if ":" in text and shape in shapes_of(chip):
        return Topology(chip, shape)
    near = _nearest(chip, shape, text)
    raise RequestError(f"topology={text}: there is no such slice of {chip}; the nearest are {near}")


def _nearest(chip: str, shape: tuple[int, ...], text: str) -> str:
    """The four slices of a kind of chip whose number of chips is nearest, the smallest first."""
    wanted = math.prod(shape)
    if "-" in text and len(shape) == 1 and chip in ("v4", "v5p"):
        wanted //= 2  # v5p-16 counts cores: 8 chips
    near = sorted(
        shapes_of(chip),
        key=lambda s: (abs(math.log(math.prod(s) / max(wanted, 1))), sorted(s) != sorted(shape)),
    )[:4]
    return ", ".join(str(Topology(chip, s)) for s in sorted(near, key=math.prod))


def quiet_compiler() -> None:
    """What must be set before jax makes a backend: compiling takes no accelerator, and asks none for its place."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(name, value)


def devices_of(topology: Topology, slices: int) -> list[Any]:
    """The devices to compile for; RequestError where libtpu is not installed, or the CPU has another number of them."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    if topology.chip == "cpu":
        if slices > 1:
            raise RequestError(
                f"slices={slices}: virtual CPU devices are one slice; "
                f"topology=cpu:{topology.chips * slices} has as many"
            )
        return _cpu_devices(topology.chips)
    if importlib.util.find_spec("libtpu") is None:
        raise RequestError(f"topology={topology}: libtpu, the TPU's compiler, is not installed; {INSTALL}")
    from jax.experimental import topologies

    options: dict[str, Any] = dict(_OPTIONS.get(topology.chip, {}))
    if topology.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if slices > 1:
        options["num_slices"] = slices
    try:
        with _silent():
            described = topologies.get_topology_desc(platform="tpu", topology_name=str(topology), **options)
    except Exception as error:
        raise RequestError(f"topology={topology}: {_first_line(error)}") from error
    return list(described.devices)


def _cpu_devices(n: int) -> list[Any]:
    import jax

    with suppress(RuntimeError):  # the backend is up already: what it has must do
        jax.config.update("jax_num_cpu_devices", n)
    devices = jax.devices("cpu")
    if len(devices) < n:
        raise RequestError(f"topology=cpu:{n}: this process has {len(devices)} CPU devices already")
    return devices[:n]


def memory_of(topology: Topology) -> int | None:
    """Bytes that a program may fill on one device; None for a CPU."""
    chip = chip_named(topology.chip)
    return None if chip is None else chip.hbm


@contextmanager
def _silent() -> Iterator[None]:
    """Without what native code writes to standard error: libtpu complains that there is no TPU."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
