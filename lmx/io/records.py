"""What a run directory tells a reader: rows of metrics, summary, configuration. Without jax and numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lmx.config.foreign import parse_json
from lmx.io.files import read_json

_TAIL = 1 << 18


def parse_rows(text: str) -> list[dict[str, Any]]:
    """Rows of metrics; lines that are not whole (the last one of a killed run) are left out."""
    rows = []
    for line in text.splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All rows of RUN/metrics.jsonl, [] where there is none."""
    try:
        return parse_rows((run / "metrics.jsonl").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []


def last_values(run: Path) -> dict[str, Any]:
    """The newest value of every metric among the last rows, without reading all of a long file."""
    try:
        with open(run / "metrics.jsonl", "rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(size - _TAIL, 0))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return {}
    values: dict[str, Any] = {}
    for row in parse_rows(text):
        values |= row
    return values


def read_summary(run: Path) -> dict[str, Any]:
    """RUN/summary.json, {} where there is none."""
    found = read_json(run / "summary.json")
    return found if isinstance(found, dict) else {}


def read_provenance(run: Path) -> list[dict[str, Any]]:
    """The starts that RUN/provenance.json lists, oldest first."""
    found = read_json(run / "provenance.json")
    return found.get("starts", []) if isinstance(found, dict) else []


def read_config(run: Path) -> dict[str, Any]:
    """RUN/config.yaml as a tree, {} where there is none that can be read."""
    return read_tree_file(run / "config.yaml")


def read_tree_file(path: Path) -> dict[str, Any]:
    """A resolved configuration as a tree, {} where there is none that can be read."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def read_overrides(run: Path) -> dict[str, str]:
    """RUN/overrides.yaml as key -> value, in the words of the command line; {} where there is none."""
    try:
        found = yaml.load((run / "overrides.yaml").read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    lines = [str(line).partition("=") for line in found] if isinstance(found, list) else []
    return {key.lstrip("+"): value for key, equals, value in lines if equals and key != "resume"}


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
