"""`lmx compile`: compiles the programs that are asked for, prints what they take, and what would make them fit."""

from __future__ import annotations

import json
import sys
from typing import Any

import jax

from lmx.config.errors import LmxError
from lmx.review.programs_text import print_report, refusal
from lmx.run.compile import Report, compile_program, topology_devices
from lmx.run.compile_config import Compile
from lmx.run.fixes import find_fix


def compile_and_report(config: Compile) -> float:
    """Prints the reports on stdout; returns the largest peak. LmxError when a program does not fit the devices."""
    # JAX's cache of programs knows them by what they compute: names and places in it may be those of earlier code.
    jax.config.update("jax_enable_compilation_cache", False)
    devices = topology_devices(config)
    reports: dict[str, dict[str, Any]] = {}
    refused: list[str] = []
    for program in config.programs:
        slices = f", {config.slices} slices" if config.slices > 1 else ""
        _say(f"compiling {program} for {len(devices)} devices of {config.topology}{slices}")
        report = _one(config, devices, program)
        told = as_json(report)
        reports[program] = told
        if not report.fits:
            told["fix"] = _fix(config, devices, report)
            refused.append(refusal(told, told["fix"], searched=config.fixes == "compile"))
    first = reports[config.programs[0]]
    if config.output == "json":
        print(json.dumps({**first, "programs": reports}))
    else:
        print("\n".join(first["computed"]) + "\n")
        for told in reports.values():
            print_report(told)
    if refused:
        raise LmxError("\n".join(refused))
    return max(told["peak_bytes"] for told in reports.values())


def as_json(report: Report) -> dict[str, Any]:
    """A report as plain values. Bytes are those of one device."""
    memory, found = report.memory, report.found
    return {
        "program": report.program,
        "cached": report.cached,
        "topology": report.topology,
        "slices": report.slices,
        "devices": report.devices,
        "device_kind": report.device_kind,
        "mesh": report.mesh,
        "links": report.links,
        "computed": list(report.computed),
        "argument_bytes": None if memory is None else memory.arguments,
        "output_bytes": None if memory is None else memory.outputs,
        "temp_bytes": None if memory is None else memory.temporaries,
        "temp_bytes_of_memory_analysis": None if memory is None else memory.told,
        "host_bytes": None if memory is None else memory.host,
        "peak_bytes": report.peak,
        "hbm_bytes": report.hbm,
        "headroom": report.headroom,
        "headroom_bytes": None if report.hbm is None else report.hbm - report.peak,
        "fits": report.fits,
        "largest_buffers": [] if found is None else [b._asdict() for b in found.buffers],
        "collectives": [] if found is None else [c._asdict() for c in found.collectives],
        "flops_per_step": report.flops,
        "compile_time": report.compile_time,
        "hash": report.hash,
    }


def _one(config: Any, devices: Any, program: str, *, look_inside: bool = True) -> Report:
    return compile_program(
        config,
        devices,
        program,
        topology=config.topology,
        slices=config.slices,
        cache=config.report_cache,
        look_inside=look_inside,
    )


def _fix(config: Compile, devices: Any, report: Report) -> dict[str, Any] | None:
    if config.fixes == "none":
        return None
    fix = find_fix(report, config, lambda c: _one(c, devices, report.program, look_inside=False), say=_say)
    return (
        None
        if fix is None
        else {"overrides": fix.overrides, "peak_bytes": fix.peak, "numerics": fix.numerics}
    )


def _say(text: str) -> None:
    print(f"lmx compile: {text}", file=sys.stderr)
