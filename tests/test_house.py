"""The floors of the house: imports point down only, and rooms on one floor do not know each other."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.support import ROOT

FLOORS = [
    ["chips", "config"],
    ["sharding", "types"],
    ["params"],
    ["layers", "optim", "data", "io"],
    ["models"],
    ["train", "infer", "review", "launch"],
    ["faults"],
    ["run"],
    ["sweep"],
    ["cli"],
]
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}


def rooms_imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "lmx" else [f"lmx.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "lmx" and len(parts) > 1 and parts[1] in FLOOR:
                yield parts[1], node.lineno


@pytest.mark.parametrize("path", sorted((ROOT / "lmx").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    room = path.relative_to(ROOT / "lmx").parts[0].removesuffix(".py")
    if room not in FLOOR:
        assert room in ("__init__", "__main__")
        return
    for other, line in rooms_imported(path):
        allowed = other == room or FLOOR[other] < FLOOR[room]
        assert allowed, f"{path}:{line}: {room} (floor {FLOOR[room]}) imports {other} (floor {FLOOR[other]})"


def test_configuration_imports_no_jax():
    """Help, completion and configuration errors must not wait for jax."""
    program = (
        "import sys; import lmx.run.config, lmx.run.infer_config, lmx.cli.main; print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"
