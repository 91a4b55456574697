"""`lmx review sweep=...`: every point of a sweep before the first one runs: what fits, in which order, at what cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lmx.config.compose import Composer
from lmx.config.errors import ConfigError, RequestError
from lmx.config.sweep import Point, check_sweep
from lmx.config.text import counted
from lmx.params import named_params
from lmx.review.page import Cells, Section, shown
from lmx.review.programs_text import size
from lmx.run.config import TrainConfig
from lmx.run.fixes import changes
from lmx.run.review import Asked, Followed, follow


def points_of(words: Sequence[str]) -> list[Point]:
    """Every point that the overrides describe, for another machine; ConfigError with the problems of all."""
    made = Composer("train", TrainConfig, overrides=words, elsewhere=True)
    sweep = check_sweep(made, words)
    if sweep.problems:
        raise ConfigError(sweep.problems, "review")
    if not sweep.complete:
        raise RequestError("hydra/sweeper: a sweeper that chooses its points as it goes has none to review")
    return sweep.points


def program_key(config: TrainConfig) -> str:
    """Equal for configurations that one compiled program serves: seed and length of the run do not change it."""
    parts = {
        name: getattr(config, name).model_dump() for name in ("model", "mesh", "kernels", "precision", "xla")
    }
    optimizer, trainer = config.optimizer.model_dump(), config.trainer.model_dump()
    for name in ("seed", "steps", "tokens", "epochs", "duration"):
        trainer.pop(name, None)
    return repr((parts, type(config.optimizer).__name__, optimizer, config.schedule.model_dump(), trainer))


def preflight(
    words: Sequence[str],
    asked: Asked,
    *,
    compiled: Callable[[TrainConfig], dict[str, Any]] | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """A document of all points; `compiled` gives the report of a program where the compiled tier is asked for."""
    found = points_of(words)
    alike = set.intersection(*(set(point.overrides) for point in found))
    seen: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    programs: dict[str, dict[str, Any]] = {}
    for number, point in enumerate(found):
        if point.composed.hash in seen:
            continue
        seen[point.composed.hash] = number
        config = point.composed.config
        followed = follow(config, asked, None)
        key = program_key(config)
        if compiled is not None and key not in programs:
            say(f"compiling the program of {' '.join(point.overrides)}")
            programs[key] = compiled(config)
        programs.setdefault(key, {})
        varied = [word for word in point.overrides if word not in alike]
        rows.append(_row(number, varied, followed, list(programs).index(key), programs[key]))
        if not rows[-1]["fits"]:
            rows[-1]["fix"] = smallest_fix(followed, asked)
    rows.sort(key=lambda row: (row["program"], row["number"]))
    total = lambda name: None if any(r[name] is None for r in rows) else sum(r[name] for r in rows)
    return {
        "sweep": list(words),
        "points": len(found),
        "duplicates": len(found) - len(rows),
        "programs": len(programs),
        "order": [row["number"] for row in rows],
        "jobs": rows,
        "do_not_fit": [row["number"] for row in rows if not row["fits"]],
        "chip_hours": total("chip_hours"),
        "cost": total("cost"),
        "currency": None if asked.prices is None else asked.prices.currency,
    }


def _row(
    number: int, varied: list[str], followed: Followed, program: int, report: dict[str, Any]
) -> dict[str, Any]:
    values = followed.found.values
    hbm = values["hbm_bytes"]
    peak = report.get("peak_bytes", values["peak_bytes_per_device"])
    fits = hbm is None or peak <= hbm
    offending = None if fits else _offending(followed, report)
    return {
        "number": number,
        "overrides": varied,
        "program": program,
        "peak_bytes": peak,
        "hbm_bytes": hbm,
        "fits": fits,
        "offending": offending,
        "fix": None,
        "step_time": values["step_time"],
        "chip_hours": values["chip_hours"],
        "cost": values["cost"],
    }


def _offending(followed: Followed, report: dict[str, Any]) -> dict[str, Any]:
    """The largest tensor: by the compiler where it was asked, else of what is known of state and activations."""
    if report.get("largest_buffers"):
        one = report["largest_buffers"][0]
        return {"name": one["name"], "shape": one["shape"], "bytes": one["bytes"]}
    parts = followed.found.memory.parts
    largest = max(parts, key=lambda name: parts[name])
    kept = followed.outline.kept.largest
    if largest == "kept activations" and kept:
        shape, dtype, n, count = kept[0]
        name = f"activations kept for the backward pass, {counted(count, 'array')} of"
        return {"name": name, "shape": f"{dtype}[{shape}]", "bytes": n}
    path, param = max(named_params(followed.outline.model.specs).items(), key=lambda item: item[1].size)
    shape = f"[{'x'.join(map(str, param.shape))}] is the largest array"
    return {"name": f"{largest}, of which {path}", "shape": shape, "bytes": parts[largest]}


def smallest_fix(followed: Followed, asked: Asked) -> list[str] | None:
    """Overrides of the smallest change with which the fast tier says that it fits; None where none is enough."""
    out = followed.outline
    for change in changes(out.config, out.sizes):
        then = follow(change.config, asked, None).found.values
        if then["peak_bytes_per_device"] <= then["hbm_bytes"]:
            return list(change.overrides)
    return None


def sections(doc: dict[str, Any]) -> list[Section]:
    """The document as a page."""
    rows, marks = [], {}
    for n, job in enumerate(doc["jobs"]):
        rows.append(
            [
                str(job["number"]),
                " ".join(job["overrides"]),
                str(job["program"]),
                size(job["peak_bytes"]),
                "yes" if job["fits"] else "no",
                shown(job["step_time"], "seconds"),
                shown(job["chip_hours"], "number"),
            ]
        )
        if not job["fits"]:
            marks[n] = "red"
    headers = ("point", "overrides", "program", "peak of a device", "fits", "step", "chip-hours")
    blocks: list[Cells | str] = [Cells(headers, rows, right=(0, 2, 3, 5, 6), marks=marks)]
    for job in doc["jobs"]:
        if job["fits"]:
            continue
        one, fix = job["offending"], job["fix"]
        cure = f"fits with: {' '.join(fix)}" if fix else "nothing that was tried makes it fit: more devices"
        blocks.append(
            f"Point {job['number']} wants {size(job['peak_bytes'])} of {size(job['hbm_bytes'])}; the largest is "
            f"{one['name']} {one['shape']}, {size(one['bytes'])}; {cure}"
        )
    blocks.append(
        f"{doc['points']} points, {doc['duplicates']} of them the same as another; {doc['programs']} programs; "
        f"in the order above {shown(doc['chip_hours'], 'number')} chip-hours, cost {shown(doc['cost'], 'money')}"
        f"{' ' + doc['currency'] if doc['cost'] is not None and doc['currency'] else ''}."
    )
    return [Section("Points, in the order in which they share programs", blocks)]
