"""Reports of compiled programs, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmx.review.runs_text import _console, _table

GB = 1e9


def size(n: float | None) -> str:
    """Bytes as people say them: 12.05 GB, 830 MB."""
    if n is None:
        return "-"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(n) >= scale:
            return f"{n / scale:.2f} {unit}"
    return f"{n:.0f} B"


def print_report(report: dict[str, Any]) -> None:
    """One program: memory, buffers, collectives."""
    from rich.text import Text

    console = _console()
    mesh = " x ".join(
        name + (f" {n} ({report['links'][name]})" if n > 1 else f" {n}") for name, n in report["mesh"].items()
    )
    slices = f", {report['slices']} slices" if report["slices"] > 1 else ""
    console.print(
        Text(
            f"{report['program']}: {report['topology']}{slices}, {report['devices']} devices "
            f"({report['device_kind']}), mesh {mesh}",
            style="bold",
        )
    )
    table = _table("memory of a device", "", right=(1,))
    for name in ("argument", "output", "temp", "peak", "hbm"):
        words = {
            "argument": "arguments (state, batch)",
            "output": "results not in donated memory",
            "temp": "temporaries",
            "peak": "all of it",
            "hbm": "there is",
        }
        table.add_row(words[name], size(report[f"{name}_bytes"]))
    if report["headroom"] is not None:
        style = "green" if report["fits"] else "red"
        free = report["headroom"]
        words = f"{free:.1%}" if free >= 0 else f"nothing: {1 - free:.2g} times what there is"
        table.add_row("left free", Text(words, style=style))
    console.print(table)
    if report["largest_buffers"]:
        table = _table("", "largest at the peak", "size", "shape", right=(2,))
        for n, buffer in enumerate(report["largest_buffers"], 1):
            shape = buffer["shape"] + (f" x {buffer['count']}" if buffer["count"] > 1 else "")
            table.add_row(str(n), Text(buffer["name"]), size(buffer["bytes"]), Text(shape))
        console.print(table)
    if report["collectives"]:
        table = _table("collective", "mesh axes", "a step", "bytes a device sends", right=(2, 3))
        for one in report["collectives"]:
            table.add_row(one["kind"], one["axes"], f"{one['count']:,}", size(one["bytes"]))
        console.print(table)
    if not report["largest_buffers"]:
        console.print("buffers and collectives are not known: the compiler gives no text of this program")
    cached = " (from the cache)" if report["cached"] else ""
    console.print(
        f"{report['flops_per_step']:.4g} FLOPs; compiled in {report['compile_time']:.1f} s{cached}\n"
    )


def refusal(report: dict[str, Any], fix: dict[str, Any] | None, *, searched: bool) -> str:
    """What to say of a program that does not fit: what it needs, its largest tensors, what makes it fit."""
    lines = [
        f"{report['program']} does not fit: {size(report['peak_bytes'])} on a device that has "
        f"{size(report['hbm_bytes'])} ({report['topology']})"
    ]
    lines += [
        f"    {size(b['bytes']):>10}  {b['name']}  {b['shape']}"
        + (f" x {b['count']}" if b["count"] > 1 else "")
        for b in report["largest_buffers"][:5]
    ]
    if fix is not None:
        note = " (this changes what is learnt, a little)" if fix["numerics"] else ""
        lines.append(f"  fits, with {size(fix['peak_bytes'])}: {' '.join(fix['overrides'])}{note}")
    elif searched:
        lines.append(
            "  no remat, accumulation, sharding or precision that was tried is enough: take more devices"
            if report["program"] == "train"
            else "  no smaller batch is enough: take more devices"
        )
    return "\n".join(lines)


def print_points(points: Sequence[dict[str, Any]], best: Sequence[int]) -> None:
    """The points of a search: those of the Pareto front in green."""
    from rich.text import Text

    table = _table("memory", "left free", "recomputed", "micro-batch", "overrides", right=(0, 1, 2, 3))
    for n, point in enumerate(points):
        headroom = "" if point["headroom"] is None else f"{point['headroom']:.1%}"
        style = "green" if n in best else ("red" if not point["fits"] else "")
        table.add_row(
            Text(size(point["peak_bytes"]), style=style),
            headroom,
            f"{point['recomputed']:.1%}",
            str(point["micro_batch"]),
            Text(" ".join(point["overrides"])),
        )
    _console().print(table)
