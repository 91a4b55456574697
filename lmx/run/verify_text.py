"""The result of `lmx verify mesh` as a table, and in words where rows differ."""

from __future__ import annotations

from typing import Any


def as_text(result: dict[str, Any]) -> str:
    """Table, then a paragraph for each row that differs or could not be run."""
    head = ("row", "devices", "initial", "loss", "gradients", "updates", "of allowed", "")
    lines = [head, *(_cells(row, result["reference"]) for row in result["rows"])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    told = [paragraph for row in result["rows"] if (paragraph := _paragraph(row))]
    counted = f"{result['steps']} steps, errors relative to {result['reference']} in float32"
    return "\n".join([counted, *table, *(["", *told] if told else [])])


def _cells(row: dict[str, Any], reference: str) -> tuple[str, ...]:
    shape = " x ".join(f"{name} {size}" for name, size in (row["axes"] or {}).items() if size > 1) or "1"
    if row["processes"] > 1:
        shape += f", {row['processes']} processes"
    if row["error"] is not None:
        return row["name"], "", "", "", "", "", "", "could not be run"
    if row["name"] == reference:
        return row["name"], shape, "", "", "", "", "", "reference"
    differ = len(row["initial_differ"])
    parts = [row[key] for key in ("loss", "gradients", "updates")]
    share = max(p["error"] / p["allowed"] if p["allowed"] else 0.0 for p in parts)
    return (
        row["name"],
        shape,
        f"{differ} differ" if differ else "equal",
        *(f"{p['error']:.1e}" for p in parts),
        f"{share:.0%}",
        "agrees" if row["agrees"] else "DIFFERS",
    )


def _paragraph(row: dict[str, Any]) -> str:
    if row["error"] is not None:
        return f"{row['name']}: {row['error']}"
    if row["agrees"]:
        return ""
    lines = []
    if row["initial_differ"]:
        lines.append(f"initial parameters: {_some(row['initial_differ'])}")
    if row["first"]:
        tensors = row["first"]["tensors"]
        names = _some([_where(d) for d in tensors])
        lines.append(f"step {row['first']['step']}, the first that differs: {names}")
    trace = row["trace"]
    if trace is not None and trace["error"] is not None:
        lines.append(f"its activations could not be looked at: {trace['error']}")
    elif trace is not None:
        for way in ("forward", "backward"):
            first = trace[way]
            said = f"all {trace['seen']} named tensors agree" if first is None else f"first {_where(first)}"
            lines.append(f"{way} at step {trace['step']}: {said}")
        if trace["forward"] is None and trace["backward"] is None:
            lines.append(
                "(seen with layers unrolled, nothing recomputed and the batch in one piece: look there)"
            )
    return "\n".join([f"{row['name']} differs", *(f"    {line}" for line in lines)])


def _where(found: dict[str, Any]) -> str:
    layer = "" if found["layer"] is None else f" of layer {found['layer']}"
    return f"{found['tensor']}{layer} ({found['error']:.1e}, noise is up to {found['allowed']:.1e})"


def _some(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
