"""A review as sections of tables and sentences, the same for Markdown, terminal and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lmx.config.errors import show_value
from lmx.config.text import counted
from lmx.io.progress import duration, readable
from lmx.review.programs_text import size


class Cells(NamedTuple):
    """A table; `right` are numbers of columns that are aligned right, `marks` a style for some rows: row -> style.

    folded  whether it is long: Markdown shows it on demand
    below   the column that goes under its row where a terminal is too narrow for the table
    brief   whether a terminal shows the first LONG rows alone
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[int] = ()
    marks: Mapping[int, str] = {}
    folded: bool = False
    below: int | None = None
    brief: bool = False


class Section(NamedTuple):
    """A heading, and below it tables and sentences in order."""

    title: str
    blocks: Sequence[Cells | str]


LONG = 12
"""Rows from which on a table is folded."""
EFFECTS = {
    "numerics": "Numerics: what is learnt changes",
    "throughput": "Throughput: speed or memory changes, the result does not",
    "bookkeeping": "Bookkeeping: neither changes",
}
UNITS = {
    "params_total": ("parameters", "count"),
    "params_active": ("parameters that a token meets", "count"),
    "params_embedding": ("of them in embeddings", "count"),
    "flops_per_token": ("a token takes", "flops"),
    "flops_per_step": ("a step takes", "flops"),
    "flops_total": ("the run takes", "flops"),
    "tokens_per_step": ("tokens a step", "count"),
    "steps": ("steps", "count"),
    "tokens": ("tokens", "count"),
    "optimizer_state_bytes": ("optimizer state", "bytes"),
    "checkpoint_bytes": ("checkpoint", "bytes"),
    "state_bytes_per_device": ("state, a device", "bytes"),
    "peak_bytes_per_device": ("peak memory, a device", "bytes"),
    "peak_bytes_per_device_fast": ("the fast tier's estimate of it", "bytes"),
    "hbm_bytes": ("memory of a device", "bytes"),
    "headroom": ("left free", "share"),
    "collective_bytes_per_step": ("sent by a device a step", "bytes"),
    "step_time": ("step time", "seconds"),
    "step_time_low": ("step time, at least", "seconds"),
    "step_time_high": ("step time, at most", "seconds"),
    "mfu": ("MFU", "share"),
    "devices": ("devices", "count"),
    "wall_hours": ("hours", "number"),
    "chip_hours": ("chip-hours", "number"),
    "cost": ("cost", "money"),
}
FACTS = {
    "warmup_fraction": "share",
    "warmup_over_run": "share",
    "evaluation_hours": "hours",
    "checkpoint_hours": "hours",
    "wall_hours": "hours",
}
"""Units of what gates are about and `UNITS` has not, or tells in its words."""
_PREFIXES = (
    (1e24, "Y"),
    (1e21, "Z"),
    (1e18, "E"),
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
)


def sections(doc: Mapping[str, Any]) -> list[Section]:
    """All sections that the document has."""
    return [
        _changed(doc),
        _follows(doc),
        *([_sharding(doc)] if "sharding" in doc else []),
        *([_optimizer(doc)] if "optimizer" in doc else []),
        *([_gates(doc)] if doc.get("gates") else []),
        *([_compatibility(doc)] if "compatibility" in doc else []),
        *([_history(doc)] if "history" in doc else []),
        *([_compiled(doc["compiled"])] if doc.get("compiled") else []),
    ]


def title(doc: Mapping[str, Any]) -> str:
    """The first line."""
    return f"Review of {doc['name']} against {doc['against']}"


def subtitle(doc: Mapping[str, Any]) -> str:
    """The devices."""
    target = doc["target"]
    mesh = " x ".join(f"{name} {n} ({target['links'][name]})" for name, n in target["mesh"].items())
    return f"{counted(target['devices'], 'device')} ({target['topology']}), mesh {mesh}"


def shown(value: Any, unit: str = "count", *, signed: bool = False) -> str:
    """A number as people read it; a dash for what is not known."""
    if value is None:
        return "-"
    sign = "+" if signed and value > 0 else ""
    if unit == "bytes":
        return sign + size(value)
    if unit == "share":
        return f"{sign}{value:.1%}"
    if unit == "seconds":
        short = abs(value) < 60
        return f"{sign}{value:.3g} s" if short else sign + ("-" if value < 0 else "") + duration(abs(value))
    if unit == "flops":
        scale, prefix = next((pair for pair in _PREFIXES if abs(value) >= pair[0]), (1.0, ""))
        return f"{sign}{value / scale:.4g} {prefix}FLOP"
    if unit == "hours":
        return sign + shown(value * 3600, "seconds")
    if unit in ("number", "money"):
        return f"{sign}{value:,.4g}" if abs(value) < 1000 else f"{sign}{value:,.0f}"
    if isinstance(value, float) and value != int(value):
        return f"{sign}{value:.4g}"
    if abs(value) >= 10**15:
        return f"{sign}{value:.4g}"
    if abs(value) < 10**7:
        return f"{sign}{int(value):,}"
    return sign + ("-" if value < 0 else "") + readable(abs(float(value)))


def written(value: Any) -> str:
    """A value of a configuration."""
    text = f"{value:g}" if isinstance(value, float) else show_value(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], **more: Any) -> Cells:
    return Cells(headers, rows, folded=len(rows) > LONG, **more)


def _changed(doc: Mapping[str, Any]) -> Section:
    blocks: list[Cells | str] = []
    for effect, words in EFFECTS.items():
        ones = doc["changes"][effect]
        if not ones:
            continue
        rows = [
            [
                one["key"],
                written(one["old"]) if "old" in one else "(none)",
                written(one["new"]) if "new" in one else "(none)",
                _origin(one.get("old_origin"), one.get("new_origin")),
            ]
            for one in ones
        ]
        blocks += [words, _table(("key", "old", "new", "set at"), rows, below=3)]
    derived = [
        [d["name"].replace("_", " "), shown(d["old"]), shown(d["new"])] for d in doc["changes"]["derived"]
    ]
    if derived:
        blocks += ["Derived", _table(("", "old", "new"), derived, right=(1, 2))]
    return Section("What changed", blocks or ["Nothing."])


def _origin(old: str | None, new: str | None) -> str:
    if new is None or old == new:
        return old or ""
    return new if old is None else f"{old} -> {new}"


def _follows(doc: Mapping[str, Any]) -> Section:
    new, old = doc["consequences"], doc.get("against_consequences") or {}
    rows = []
    for name in dict.fromkeys([*new, *old]):
        words, unit = UNITS.get(name, (f"of that, over {name.partition('.')[2]}", "bytes"))
        if unit == "money" and doc.get("price"):
            words += f" ({doc['price']['currency']})"
        if new.get(name) is None and old.get(name) is None:
            continue
        difference = doc["differences"].get(name)
        rows.append(
            [
                words,
                shown(old.get(name), unit),
                shown(new.get(name), unit),
                "" if difference is None else shown(difference, unit, signed=True),
            ]
        )
    blocks: list[Cells | str] = [Cells(("", "old", "new", "difference"), rows, right=(1, 2, 3))]
    then = doc.get("against_target")
    if then is not None and then["topology"] != doc["target"]["topology"]:
        blocks.append(
            f"The old figures are those of {counted(then['devices'], 'device')} ({then['topology']})."
        )
    if doc.get("against_problem"):
        blocks.append(f"No old figures: {doc['against_problem']}.")
    if doc.get("step_time_basis"):
        blocks.append(f"Step time: {doc['step_time_basis']}; bound by {doc['bound']}.")
    elif doc["consequences"].get("step_time") is None:
        blocks.append(
            "Step time: not known, for these devices have no published figures and no past runs here."
        )
    if doc["consequences"].get("cost") is not None and doc.get("price"):
        blocks.append(f"Prices of {doc['price']['date']}: {doc['price']['source']}.")
    memory = {k: v for k, v in doc["memory"].items() if k != "moment" and v}
    parts = ", ".join(f"{name} {size(n)}" for name, n in memory.items())
    blocks.append(f"Most memory is in use at the {doc['memory']['moment']}: {parts}.")
    return Section("What follows", blocks)


def _sharding(doc: Mapping[str, Any]) -> Section:
    rows = [
        [
            row["name"] + (f" ({row['arrays']} stacks)" if row["arrays"] > 1 else ""),
            row["shape"],
            row["axes"],
            row["mesh"],
            size(row["bytes"]),
            row["warning"],
        ]
        for row in doc["sharding"]
    ]
    marks = {n: "yellow" for n, row in enumerate(doc["sharding"]) if row["warning"]}
    headers: tuple[str, ...] = ("parameter", "shape", "axes", "mesh", "on a device", "")
    warnings = [f"{row['name']}: {row['warning']}" for row in doc["sharding"] if row["warning"]]
    if not warnings:
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    return Section("Sharding", [*warnings, _table(headers, rows, right=(4,), marks=marks, below=2)])


def _optimizer(doc: Mapping[str, Any]) -> Section:
    rows = [
        [
            row["group"],
            row["parameters"],
            f"{row['elements']:,}",
            row["rule"],
            f"{row['multiplier']:g}",
            f"{row['learning_rate']:g}",
            f"{row['weight_decay']:g}",
            row["initial"],
        ]
        for row in doc["optimizer"]
    ]
    headers = ("group", "parameters", "elements", "rule", "factor", "learning rate", "weight decay", "start")
    return Section("Optimizer", [Cells(headers, rows, right=(2, 4, 5, 6), below=1)])


def _gates(doc: Mapping[str, Any]) -> Section:
    styles = {"fail": "red", "waived": "yellow", "unknown": "dim", "pass": "green", "off": "dim"}
    rows, marks = [], {}
    for n, gate in enumerate(doc["gates"]):
        why = gate["reason"]
        if gate["justification"]:
            why = f"waived: {gate['justification']} ({gate['origin']})"
        unit = FACTS.get(gate["number"]) or UNITS.get(gate["number"], ("", "count"))[1]
        limits = [
            f"{words} {shown(gate[key], unit)}"
            for words, key in (("at least", "at_least"), ("at most", "at_most"))
            if gate[key] is not None
        ]
        limit = " and ".join(limits) or "off"
        rows.append([gate["status"], gate["name"], shown(gate["value"], unit), limit, why])
        marks[n] = styles[gate["status"]]
    return Section(
        "Gates", [Cells(("", "gate", "value", "limit", "why"), rows, right=(2,), marks=marks, below=4)]
    )


def _compatibility(doc: Mapping[str, Any]) -> Section:
    found = doc["compatibility"]
    if found["resumable"]:
        return Section(
            "Checkpoints", [f"From a checkpoint of {doc['against']} a run can go on with this configuration."]
        )
    rows = [[p["key"], written(p["old"]), written(p["new"])] for p in found["prevents"]]
    said = f"A run of {doc['against']} cannot go on with this configuration; what prevents it:"
    return Section("Checkpoints", [said, _table(("key", "old", "new"), rows, brief=True)])


def _history(doc: Mapping[str, Any]) -> Section:
    found = doc["history"]
    if not found["runs"]:
        return Section("History", ["No past runs were found."])
    number = lambda x: "-" if x is None else f"{x:.4f}"
    rows = [
        [
            run["path"],
            run["status"],
            shown(run["steps"]),
            number(run["loss"]),
            number(run["eval_loss"]),
            shown(run["step_time"], "seconds"),
            ", ".join(run["differing"][:4]) + (" ..." if len(run["differing"]) > 4 else ""),
        ]
        for run in found["runs"]
    ]
    headers = ("run", "ended", "steps", "loss", "eval loss", "step", "differs in")
    blocks: list[Cells | str] = [
        f"The most alike of {found['looked_at']} runs:",
        Cells(headers, rows, right=(2, 3, 4, 5), below=6),
    ]
    if found["predictions"]:
        rows = [
            [
                p["path"],
                shown(p["predicted"], "seconds"),
                shown(p["measured"], "seconds"),
                f"{p['ratio']:.2f}",
                shown(p["predicted_memory"], "bytes"),
                shown(p["measured_memory"], "bytes"),
            ]
            for p in found["predictions"]
        ]
        headers = (
            "run",
            "step predicted",
            "measured",
            "measured / predicted",
            "memory predicted",
            "measured",
        )
        kept = len(headers) if any(p["measured_memory"] for p in found["predictions"]) else 4
        blocks += [
            "What would have been predicted for them, and what was measured:",
            Cells(headers[:kept], [row[:kept] for row in rows], right=tuple(range(1, kept))),
        ]
    return Section("History", blocks)


def _compiled(report: Mapping[str, Any]) -> Section:
    rows = [
        [b["name"], b["shape"] + (f" x {b['count']}" if b["count"] > 1 else ""), size(b["bytes"])]
        for b in report["largest_buffers"]
    ]
    sent = [[c["kind"], c["axes"], f"{c['count']:,}", size(c["bytes"])] for c in report["collectives"]]
    said = (
        f"The compiler's own figure: {size(report['peak_bytes'])} a device, of which "
        f"{size(report['argument_bytes'])} are state and batch ({report['hash'][:12]}"
        + (", from the cache)." if report["cached"] else f", compiled in {report['compile_time']:.1f} s).")
    )
    return Section(
        "Compiled",
        [
            said,
            _table(("largest at the peak", "shape", "size"), rows, right=(2,)),
            _table(("collective", "mesh axes", "a step", "sent by a device"), sent, right=(2, 3)),
        ],
    )
