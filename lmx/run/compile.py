"""The programs of a configuration, compiled for devices that need not be here, and what they take."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lmx.chips import chip_of
from lmx.config.errors import requests
from lmx.infer.requests import bucket
from lmx.review.programs import Found, Memory, does_not_fit, memory_of, needed_bytes, read_program
from lmx.run.build import Parts, build
from lmx.run.compile_config import Compile
from lmx.run.config import TrainConfig
from lmx.run.engine import abstract_engine
from lmx.run.length import steps_or_none
from lmx.run.numbers import how_it_is_computed
from lmx.run.programs import EvalProgram, abstract_batch, lowered_step, options_for
from lmx.run.refused import dump
from lmx.run.topology import devices_of, parse_topology
from lmx.sharding import links, ways
from lmx.types import Batch

SOME_STEPS = 1000
"""Length of a run whose length only its data or the clock will tell; no size in a program follows from it."""


class Report(NamedTuple):
    """One program on one topology.

    needed    bytes of a device that the compiler asks for where it refused the program; None where it fits
    found     buffers and collectives; None where the compiler gives no text
    flops     of the whole program over all devices, by the model's own formula
    links     mesh axis -> what it runs over: ICI, DCN, ...
    hbm       bytes of a device that a program may fill; None where no figure is known (CPU)
    computed  devices in their order, pipeline, kernels, precision: a line each, as at the start of a run
    cached    whether this very program was compiled, and reported on, before
    """

    program: str
    topology: str
    slices: int
    devices: int
    device_kind: str
    mesh: dict[str, int]
    links: dict[str, str]
    memory: Memory | None
    needed: int | None
    found: Found | None
    flops: float
    hbm: int | None
    compile_time: float
    hash: str
    cached: bool
    computed: tuple[str, ...]

    @property
    def peak(self) -> int:
        """Bytes of a device, of memory that the program has or would need."""
        if self.memory is not None:
            return self.memory.peak
        return self.needed or 0

    @property
    def fits(self) -> bool:
        """Whether the compiler took it, and the device has the memory."""
        return self.needed is None and (self.hbm is None or self.peak <= self.hbm)

    @property
    def headroom(self) -> float | None:
        """Part of the memory that stays free; negative where it does not fit."""
        return None if self.hbm is None else 1 - self.peak / self.hbm


def example_row(config: TrainConfig) -> Batch:
    """The form of one example of the configured data, known without reading it."""
    t = config.trainer.sequence_length
    ids, weights = jax.ShapeDtypeStruct((t,), np.int32), jax.ShapeDtypeStruct((t,), np.float32)
    more = ids if config.data.segmented() else None
    return Batch(ids, ids, weights, more, more)


def steps_of(config: TrainConfig) -> int:
    """Length of the run, as far as the configuration alone tells it."""
    return steps_or_none(config.trainer) or SOME_STEPS


def topology_devices(config: Compile) -> list[Any]:
    """The devices of `topology` and `slices`; RequestError where there is no such thing."""
    return devices_of(parse_topology(config.topology), config.slices)


def build_for(config: TrainConfig, devices: Sequence[Any]) -> Parts:
    """The parts of the run on all of `devices`; RequestError where mesh, batch and model do not fit one another."""
    with requests():
        parts = build(config, total_steps=steps_of(config), devices=devices)
        if parts.mesh.size != len(devices):
            sizes = " x ".join(f"{name} {size}" for name, size in parts.mesh.shape.items())
            raise ValueError(
                f"mesh.axes: {sizes} = {parts.mesh.size}, but there are {len(devices)} devices; "
                f"mesh=fsdp takes them all, or set mesh.axes.{next(iter(parts.mesh.shape))}=auto"
            )
    return parts


def lower(config: Compile | TrainConfig, parts: Parts, program: str) -> jax.stages.Lowered:
    """`train`, `eval` or `decode`, lowered for the mesh of `parts`."""
    if program == "train":
        return lowered_step(config, parts, example_row(config), norms=False)
    if program == "eval":
        step = EvalProgram(parts.model, parts.kernels, parts.mesh, options=options_for(config, parts.mesh))
        batch = abstract_batch(config, parts, example_row(config), config.trainer.eval_batch_size)
        return step.lowered(parts.abstract_state.params, batch)
    assert isinstance(config, Compile)
    return _lower_decode(config, parts)


def _lower_decode(config: Compile, parts: Parts) -> jax.stages.Lowered:
    """The loop of `lmx generate` over tokens, in the compute dtype; ValueError where it has no such program."""
    engine = abstract_engine(config, parts.mesh, config.trainer.compute_dtype)
    for key, asked, held in (
        ("batch", config.decode.batch, bucket(config.decode.batch)),
        ("length", config.decode.length, engine.cache_length(config.decode.length)),
    ):
        if asked != held:
            raise ValueError(
                f"decode.{key}={asked}: lmx generate rounds it up, to a power of two or the most that the model has; "
                f"set decode.{key}={held}"
            )
    return engine.lowered(config.decode.batch, config.decode.length)


def flops_of(config: Compile | TrainConfig, parts: Parts, program: str) -> float:
    """Of a program over all devices (decode: a token a row), by the model's formula: recomputation does not count."""
    t = config.trainer
    if program == "train":
        return t.batch_sequences() * t.sequence_length * parts.model.flops(t.sequence_length).causal
    if program == "eval":
        return t.eval_batch_size * t.sequence_length * parts.model.flops(t.sequence_length).causal / 3
    assert isinstance(config, Compile)
    return config.decode.batch * parts.model.flops(config.decode.length).full / 3


def _undivided(config: Compile | TrainConfig, parts: Parts, program: str) -> list[str]:
    """A line where the rows of decoding cannot be split over the devices that a batch is split over."""
    if program != "decode" or not isinstance(config, Compile):
        return []
    rows, n = config.decode.batch, ways(parts.mesh.shape, config.mesh.rules, "batch")
    return [f"decode: {rows} rows cannot be split {n} ways; each device has them all"] if rows % n else []


def compile_program(
    config: Compile | TrainConfig,
    devices: Sequence[Any],
    program: str = "train",
    *,
    topology: str,
    slices: int = 1,
    cache: str | None = None,
    look_inside: bool = True,
) -> Report:
    """Compiles one program and reports; from the cache where this very program was compiled before.

    `look_inside`: whether buffers and collectives are wanted, also of a program that does not fit.
    RequestError where the configuration does not fit the devices.
    """
    parts = build_for(config, devices)
    chip = chip_of(str(devices[0].device_kind))
    with requests():
        lowered = lower(config, parts, program)
    options = options_for(config, parts.mesh) or {}
    known = _Cache(cache, lowered, parts.mesh, [str(look_inside), str(sorted(options.items()))])
    found = known.read()
    cached = found is not None
    if found is None:
        found = _compile(lowered, parts, options, look_inside=look_inside)
        known.write(found)
    return Report(
        program=program,
        topology=topology,
        slices=slices,
        devices=len(devices),
        device_kind=str(devices[0].device_kind),
        mesh=dict(parts.mesh.shape),
        links={name: str(link) for name, link in links(parts.mesh).items()},
        flops=flops_of(config, parts, program),
        hbm=None if chip is None else chip.hbm,
        hash=known.key,
        cached=cached,
        computed=(*how_it_is_computed(config, parts), *_undivided(config, parts, program)),
        **found._asdict(),
    )


class _Compiled(NamedTuple):
    """What compiling brings; JSON-able."""

    memory: Memory | None
    needed: int | None
    found: Found | None
    compile_time: float


def _compile(
    lowered: jax.stages.Lowered, parts: Parts, options: dict[str, Any], *, look_inside: bool
) -> _Compiled:
    device = parts.mesh.devices.flat[0]
    # The text of a program for TPU7x brings the process down.
    inside = look_inside and "TPU7x" not in str(device.device_kind)
    sizes = dict(parts.mesh.shape)
    between = {name: link.between for name, link in links(parts.mesh).items() if link.between > 1}
    with dump(wanted=inside and device.platform == "tpu") as written:
        began = time.perf_counter()
        try:
            compiled = lowered.compile(compiler_options=(options | written.options) or None)
        except jax.errors.JaxRuntimeError as error:
            if not does_not_fit(error):
                raise
            taken, text = time.perf_counter() - began, written.program()
            found = None if text is None else read_program(text, sizes, between=between)
            return _Compiled(written.memory(), needed_bytes(str(error)) or 0, found, taken)
        taken = time.perf_counter() - began
    found = read_program(compiled.as_text() or "", sizes, between=between) if inside else None
    return _Compiled(memory_of(compiled, device.platform), None, found, taken)


class _Cache:
    """Reports by a hash of the program as it goes to the compiler, the devices, the compiler, and what reads it."""

    def __init__(self, folder: str | None, lowered: jax.stages.Lowered, mesh: Any, more: list[str]) -> None:
        versions = [f"jax {jax.__version__}", f"libtpu {_version('libtpu')}", _readers()]
        devices = [repr(d) for d in mesh.devices.flat]
        text = "\n".join([lowered.as_text(), str(mesh), *devices, *versions, *more])
        self.key = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._path = None if folder is None else Path(folder).expanduser() / f"{self.key}.json"

    def read(self) -> _Compiled | None:
        """The report, when it is there and whole."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            return compiled_from_json(json.loads(self._path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError):  # written by another version, or cut short
            return None

    def write(self, found: _Compiled) -> None:
        """Keeps it."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(compiled_to_json(found)), encoding="utf-8")
        partial.replace(self._path)


def compiled_to_json(found: _Compiled) -> dict[str, Any]:
    """Plain values."""
    inside = found.found
    return {
        "memory": None if found.memory is None else found.memory._asdict(),
        "needed": found.needed,
        "compile_time": found.compile_time,
        "found": None
        if inside is None
        else {
            "buffers": [b._asdict() for b in inside.buffers],
            "collectives": [c._asdict() for c in inside.collectives],
            "seen_bytes": inside.seen_bytes,
        },
    }


def compiled_from_json(told: dict[str, Any]) -> _Compiled:
    """The inverse of `compiled_to_json`."""
    from lmx.review.collectives import Collective
    from lmx.review.programs import Tensor

    inside = told["found"]
    return _Compiled(
        None if told["memory"] is None else Memory(**told["memory"]),
        told["needed"],
        None
        if inside is None
        else Found(
            [Tensor(**b) for b in inside["buffers"]],
            [Collective(**c) for c in inside["collectives"]],
            inside["seen_bytes"],
        ),
        told["compile_time"],
    )


@functools.cache
def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


@functools.cache
def _readers() -> str:
    """A hash of the code that reads compiled programs, and of the code whose names it reads there."""
    from lmx import layers, models, review

    folders = [folder for package in (layers, models, review) for folder in package.__path__]
    files = sorted(path for folder in folders for path in Path(folder).glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
