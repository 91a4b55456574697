"""The run directory: one owner, whole files, rows cut where a run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lmx.config.errors import RequestError
from lmx.io.run_dir import RunDir, holder, split_rows

HOLD = """
import sys
from pathlib import Path
from lmx.config.errors import RequestError
from lmx.io.run_dir import RunDir
path, how = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
try:
    run = getattr(RunDir, how)(path)
    if how == "create":
        run.write_config({"a": 1}, [])
    print("won", flush=True)
except RequestError as error:
    print(f"lost {error}", flush=True)
sys.stdin.readline()
"""


def start(path: Path, how: str) -> subprocess.Popen:
    """A process that opens the directory when it is told to, and keeps it until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(path), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def heard(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("made_before", [False, True], ids=["absent", "made by Hydra before"])
def test_of_processes_that_race_for_a_directory_exactly_one_wins(tmp_path, made_before):
    path = tmp_path / "run"
    if made_before:
        path.mkdir()
    racers = [start(path, "create") for _ in range(5)]
    for racer in racers:
        go(racer)
    said = [heard(racer) for racer in racers]
    assert said.count("won") == 1
    lost = [line for line in said if line != "won"]
    assert all("in use by process" in line or "holds a run already" in line for line in lost)
    for racer in racers:
        racer.communicate("\n", timeout=20)
    with pytest.raises(
        RequestError, match=r"hydra\.run\.dir=.*holds a run already; go on with it by resume="
    ):
        RunDir.create(path)


def test_a_run_in_use_is_refused_naming_the_process_and_free_again_when_that_was_killed(tmp_path):
    path = tmp_path / "run"
    run = RunDir.create(path)
    run.write_config({"a": 1}, [])
    run.close()
    other = start(path, "open")
    go(other)
    assert heard(other) == "won"
    with pytest.raises(RequestError, match=rf"in use by process {other.pid} on "):
        RunDir.open(path)
    assert str(other.pid) in (holder(path) or "")
    other.kill()
    other.wait()
    assert holder(path) is None
    RunDir.open(path).close()


@pytest.mark.parametrize("mark", ["config.yaml", "metrics.jsonl", "summary.json", "checkpoints"])
def test_a_directory_with_a_run_in_it_is_refused(tmp_path, mark):
    (tmp_path / mark).mkdir() if mark == "checkpoints" else (tmp_path / mark).touch()
    with pytest.raises(RequestError, match="holds a run already"):
        RunDir.create(tmp_path)
    assert holder(tmp_path) is None


def test_what_is_no_directory_or_no_run_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="there is a file of this name"):
        RunDir.create(tmp_path / "file")
    with pytest.raises(RequestError, match=r"not a run directory \(it has no config.yaml\)"):
        RunDir.open(tmp_path)


def test_configuration_and_overrides_of_every_start_are_kept(tmp_path):
    run = RunDir.create(tmp_path / "run")
    run.write_config({"trainer": {"steps": 10}}, ["trainer.steps=10"])
    run.close()
    run = RunDir.open(tmp_path / "run")
    run.write_config({"trainer": {"steps": 20}}, ["trainer.steps=20"])
    run.close()
    read = lambda name: yaml.safe_load((run.path / name).read_text())
    assert read("config.yaml") == {"trainer": {"steps": 20}}
    assert read("config.before-resume-1.yaml") == {"trainer": {"steps": 10}}
    assert read("overrides.yaml") == ["trainer.steps=10", "trainer.steps=20"]


def test_the_summary_is_valid_json_whatever_the_loss(tmp_path):
    run = RunDir.create(tmp_path / "run")
    run.write_summary({"status": "done", "loss": float("nan"), "eval_loss": float("-inf"), "steps": 3})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads((run.path / "summary.json").read_text(), parse_constant=refuse)
    assert found == {"status": "done", "loss": "NaN", "eval_loss": "-Infinity", "steps": 3}
    assert run.read_summary() == found
    assert not list(run.path.glob(".*.tmp"))


def test_a_process_that_is_not_the_primary_one_writes_nothing(tmp_path):
    run = RunDir.create(tmp_path / "run", primary=False)
    run.write_config({"a": 1}, [])
    run.write_summary({"status": "running"})
    run.write_provenance(config_hash="0", seed=0, devices=[], hosts=2)
    run.cut_metrics(3)
    run.close()
    assert not (tmp_path / "run").exists()


def lines_of(steps: list[int]) -> list[str]:
    return [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in steps]


def test_a_resumed_run_has_the_rows_of_an_uninterrupted_one(tmp_path):
    run = RunDir.create(tmp_path / "run")
    metrics = run.path / "metrics.jsonl"
    rows = lines_of([10, 20, 30, 40])
    metrics.write_text("".join(rows) + '{"step": 50, "lo')
    run.cut_metrics(20)
    assert metrics.read_text() == "".join(rows[:2])
    assert (run.path / "metrics.cut.jsonl").read_text() == "".join(rows[2:]) + '{"step": 50, "lo\n'
    run.cut_metrics(20)
    assert metrics.read_text() == "".join(rows[:2])
    metrics.write_text("".join(rows))
    run.cut_metrics(0)
    assert metrics.read_text() == ""
    run.close()


@given(
    steps=st.lists(st.integers(1, 100), unique=True).map(sorted),
    at=st.integers(0, 101),
    torn=st.integers(0, 12),
)
def test_a_cut_keeps_exactly_the_whole_rows_up_to_the_step_and_loses_nothing(steps, at, torn):
    lines = lines_of(steps)
    text = "".join(lines) + '{"step": 1, "'[:torn]
    kept, cut = split_rows(text, at)
    assert kept == [line for line, step in zip(lines, steps, strict=True) if step <= at]
    assert "".join(kept + cut) == text
