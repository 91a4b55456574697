"""What a run directory tells a reader: rows of metrics, summary, configuration. Without jax and numpy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.config.foreign import read_yaml
from lmx.io.files import read_json
from lmx.io.lines import Lines, is_count, misfit, parse_lines, read_lines

_TAIL = 1 << 18


def _wrong(row: Mapping[str, Any]) -> str | None:
    return misfit(row, {"step": is_count})


def read_rows(run: Path) -> Lines:
    """All rows of RUN/metrics.jsonl, none where there is none; damaged ones are left out and named."""
    return read_lines(run / "metrics.jsonl", _wrong)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All rows of RUN/metrics.jsonl that can be read, [] where there is none."""
    return read_rows(run).objects


def last_values(run: Path) -> dict[str, Any]:
    """The newest value of every metric among the last rows, without reading all of a long file."""
    try:
        with open(run / "metrics.jsonl", "rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(size - _TAIL, 0))
            raw = stream.read()
    except OSError:
        return {}
    values: dict[str, Any] = {}
    for row in parse_lines(raw, "metrics.jsonl", _wrong).objects:
        values |= row
    return values


def read_summary(run: Path) -> dict[str, Any]:
    """RUN/summary.json, {} where there is none."""
    found = read_json(run / "summary.json")
    return found if isinstance(found, dict) else {}


def read_provenance(run: Path) -> list[dict[str, Any]]:
    """The starts that RUN/provenance.json lists, oldest first."""
    found = read_json(run / "provenance.json")
    starts = found.get("starts") if isinstance(found, dict) else None
    return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []


def read_config(run: Path) -> dict[str, Any]:
    """RUN/config.yaml as a tree, {} where there is none that can be read."""
    return read_tree_file(run / "config.yaml")


def read_tree_file(path: Path) -> dict[str, Any]:
    """A resolved configuration as a tree, {} where there is none that can be read."""
    try:
        found = read_yaml(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_overrides(run: Path) -> dict[str, str]:
    """RUN/overrides.yaml as key -> value, in the words of the command line; {} where there is none."""
    try:
        found = read_yaml(run / "overrides.yaml")
    except (OSError, ValueError):
        return {}
    lines = [str(line).partition("=") for line in found] if isinstance(found, list) else []
    return {key.lstrip("+"): value for key, equals, value in lines if equals and key != "resume"}
