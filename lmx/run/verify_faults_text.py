"""The result of `lmx verify faults` as a table of Markdown."""

from __future__ import annotations

import math
from typing import Any


def as_text(result: dict[str, Any]) -> str:
    """A row for each fault: how the run ended, what it said, what became of it."""
    each = result["devices"] // result["processes"]
    lines = [
        f"{result['processes']} processes x {each} devices, {result['steps']} steps, fault at step {result['at']}",
        "",
        "| fault | exit codes | what was said | end | in the end |",
        "|---|---|---|---|---|",
        *(_row(row) for row in result["rows"]),
    ]
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> str:
    said = (row["error"] or "").replace("|", "\\|")
    if row["refused"]:
        said += " -- before the repair: " + row["refused"].replace("|", "\\|")
    if math.isinf(row["seconds"]):
        end = "HANGS"
    elif row["resumed"] is None:
        end = "goes on"
    else:
        end = f"all within {row['seconds']:.1f} s; resumed after step {row['resumed']}"
    codes = ", ".join(map(str, row["codes"]))
    return f"| {row['name']} | {codes} | {said} | {end} | {row['verdict']} |"
