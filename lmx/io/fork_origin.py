"""Where a forked run came from: `fork.json` in its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from lmx.io.files import to_json, write_atomic
from lmx.io.lines import is_count, is_text, read_record

FORK = "fork.json"


class Fork(NamedTuple):
    """run: the directory it branched off; step; config_hash of that run; changes: key -> (old, new)."""

    run: str
    step: int
    config_hash: str
    changes: dict[str, tuple[Any, Any]]


def write_fork(path: Path, fork: Fork) -> None:
    """Keeps it; OSError where the disk refuses."""
    changes = {key: {"old": old, "new": new} for key, (old, new) in fork.changes.items()}
    write_atomic(path, to_json({**fork._asdict(), "changes": changes}, indent=2) + "\n")


def read_fork(run: Path) -> Fork | None:
    """Of a run directory; None where it is no fork. RequestError where the file is damaged."""
    found = read_record(run / FORK, _SHAPE)
    if found is None:
        return None
    changes = {key: (value["old"], value["new"]) for key, value in found["changes"].items()}
    return Fork(found["run"], found["step"], found["config_hash"], changes)


def _are_changes(value: Any) -> bool:
    pairs = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(pair, dict) and {"old", "new"} <= set(pair) for pair in pairs)


_SHAPE = {"run": is_text, "step": is_count, "config_hash": is_text, "changes": _are_changes}
