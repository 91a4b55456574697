"""The result of `lmx verify resume` in words."""

from __future__ import annotations

import math
from typing import Any


def as_text(result: dict[str, Any]) -> str:
    """A line for the kills, a table of the places, and the verdict."""
    kills = ", ".join(f"{count} {_WHEN[phase]}" for phase, count in sorted(result["kills"].items()))
    lines = [
        f"{sum(result['kills'].values())} kills in {result['runs']} runs of {result['steps']} steps: {kills}",
        f"compared with undisturbed runs; seed={result['seed']}",
        "",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        groups.setdefault((row["killed"], row["resumed"]), []).append(row)
    lines += [_group(*places, rows, result["tolerance"]) for places, rows in groups.items()]
    seconds = result["dead_host_s"]
    longest = "more than allowed" if math.isinf(seconds) else f"{seconds:.1f} s"
    lines += ["", f"longest that a process outlived a killed one: {longest}"]
    lines += [f"steps lost beyond the last checkpoint: {len(result['lost'])} times", *result["lost"]]
    lines.append(
        "resuming is exact" if result["exact"] else f"{result['wrong']} of {result['runs']} runs are WRONG"
    )
    return "\n".join(lines)


_WHEN = {
    "start": "at any instant after the start",
    "step": "in a step",
    "save": "in a save",
    "written": "between a save's arrays and its manifest",
    "restore": "in a restore",
    "saved": "after a save, to move",
}


def _group(killed: str, resumed: str, rows: list[dict[str, Any]], tolerance: float) -> str:
    bad = [row for row in rows if row["first"] is not None]
    compared = next((row["compared"] for row in rows if row["compared"]), {})
    what = ", ".join(f"{count:,} of {kind}" for kind, count in compared.items())
    where = (
        f"killed and resumed at {killed}"
        if killed == resumed
        else f"killed at {killed}, resumed at {resumed}"
    )
    if bad:
        return f"{where}: {len(bad)} of {len(rows)} runs WRONG, first: {bad[0]['first']}"
    if killed == resumed:
        return f"{where}: {len(rows)} runs equal bit for bit ({what})"
    worst: dict[str, float] = {}
    for row in rows:
        for kind, error in row["worst"].items():
            worst[kind] = max(worst.get(kind, 0.0), error)
    noise = ", ".join(f"{kind} {error:.1e}" for kind, error in worst.items())
    return f"{where}: equal up to {tolerance:g}, relative ({what}; largest differences: {noise})"
