"""The program that hosts get: one text, of parts that know each other's names without importing them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

from lmx.launch import agent
from tests.launch.programs import until


def test_program_stands_alone():
    tree = ast.parse(agent.source(), feature_version=(3, 8))
    defined, imported = [], set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.append(node.name)
        elif isinstance(node, ast.Assign):
            defined += [target.id for target in node.targets if isinstance(target, ast.Name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported <= set(sys.stdlib_module_names)
    assert sorted(defined) == sorted(set(defined)), "two parts define the same name"
    space = {}
    exec(compile(tree, "agent", "exec"), space)
    assert {"start", "poll", "stop", "probe", "unpack", "setup"} <= set(space["ACTIONS"])


@pytest.mark.skipif(os.getuid() != 0, reason="a small disk is mounted by root")
def test_a_full_disk_keeps_the_exit_code_and_is_named(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a disk")
    try:
        wait = "until [ -e attempt/task-0.pid ]; do sleep 0.05; done"
        program = f"{wait}; dd if=/dev/zero of=fill bs=1M 2>/dev/null; echo lost > lost; exit 3"
        task = {"index": 0, "argv": ["sh", "-c", program], "environment": {}}
        agent.start(str(disk / "attempt"), str(disk), [task])
        seen = until(
            lambda: (a := agent.poll(str(disk / "attempt"), [0])["tasks"]["0"])["state"] != "running" and a
        )
        assert (seen["state"], seen["exit_code"]) == ("ended", 3)
        assert seen["message"] == f"the disk of {disk}/attempt is full"
    finally:
        until(lambda: subprocess.run(["umount", str(disk)], capture_output=True, check=False).returncode == 0)


def test_an_exit_file_that_is_only_reserved_says_nothing(tmp_path):
    task = {"index": 0, "argv": ["sleep", "300"], "environment": {}}
    agent.start(str(tmp_path), str(tmp_path), [task])
    assert (tmp_path / "task-0.exit").exists()
    assert agent.poll(str(tmp_path), [0])["tasks"]["0"] == {"state": "running"}
    agent.stop(str(tmp_path), [0], 1.0)
    seen = until(lambda: (a := agent.poll(str(tmp_path), [0])["tasks"]["0"])["state"] == "ended" and a)
    assert (seen["exit_code"], seen["message"]) == (-15, "")


@pytest.mark.parametrize(
    ("rows", "step", "loss"),
    [
        ("", None, None),
        ('{"step": 3, "loss": 2.5}\n{"step": 4, "eval/loss": 2.1}\n{"step": 5, "lo', 4, 2.5),
        ('{"step": 3, "loss": NaN}\n', 3, float("nan")),
        ('{"step": 3}\n', 3, None),
    ],
)
def test_how_far_a_run_is(tmp_path, rows, step, loss):
    (tmp_path / "metrics.jsonl").write_text(rows)
    found = agent.last_row(str(tmp_path))
    assert found["step"] == step
    assert found["loss"] == pytest.approx(loss, nan_ok=True) if loss is not None else found["loss"] is None
