"""`lmx launch` on the command line, up to where a run would start."""

from __future__ import annotations

import json
import shutil

import pytest

from lmx.cli.main import run

TINY = ["model.n_layers=1", "trainer.steps=3"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_dry_run_shows_the_frozen_file_and_the_call_and_leaves_nothing(here, capsys):
    words = ["dry_run=true", "output=json", "target.processes=2", "target.devices=3", "mesh=fsdp", *TINY]
    assert run(["launch", *words, "hydra.run.dir=runs/x"]) == 0
    config, call = json.loads(capsys.readouterr().out)
    assert config["file"] == str(here / "runs" / "x" / "launch" / "config.yaml")
    assert "steps: 3\n" in config["input"]
    assert not any(
        line.startswith(("target:", "launch:", "dry_run:")) for line in config["input"].splitlines()
    )
    request = json.loads(call["input"].partition("then ")[2])
    environments = [task["environment"] for task in request["with"]["tasks"]]
    assert [e["JAX_PROCESS_ID"] for e in environments] == ["0", "1"]
    assert {e["JAX_NUM_CPU_DEVICES"] for e in environments} == {"3"}
    assert request["do"] == "start"
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["target=gcp"], "local"),
        (["target.process=2"], "target.processes=2"),
        (["target.processes=0"], "greater than 0"),
        (["resume=runs/x"], "lmx launch resume runs/x"),
        (["distributed=one"], "distributed=auto"),
        (["target=ssh"], "target.hosts=[host1,host2]"),
        (
            ["target=ssh", "target.hosts=[a]", "target.ssh=no-such-ssh", "target.code=installed"],
            "no program 'no-such-ssh'",
        ),
        (["target=ssh", "target.hosts=[a]"], "git"),
    ],
)
def test_wrong_requests_start_nothing(here, capsys, words, message):
    assert run(["launch", *TINY, *words, "hydra.run.dir=runs/x"]) == 2
    assert message in capsys.readouterr().err
    assert not list(here.iterdir())
    (here / "runs").mkdir()
    assert run(["launch", *TINY, *words, "hydra.run.dir=runs/x"]) == 2
    assert [path.name for path in here.rglob("*")] == ["runs"]  # as it was there before


@pytest.mark.parametrize("name", ["status", "logs", "stop", "attach", "resume"])
def test_a_run_that_is_not_there(here, capsys, name):
    assert run(["launch", name, "nothing"]) == 2
    assert "there is no launched run 'nothing'" in capsys.readouterr().err


def test_no_runs(here, capsys):
    assert run(["launch", "status"]) == 0
    assert capsys.readouterr().out == "no launched runs in runs\n"


def test_a_run_is_launched_once(here, capsys):
    (here / "runs" / "x" / "launch").mkdir(parents=True)
    (here / "runs" / "x" / "launch" / "plan.json").write_text("{}")
    assert run(["launch", *TINY, "hydra.run.dir=runs/x"]) == 2
    assert "was launched already" in capsys.readouterr().err
    shutil.rmtree(here / "runs")


def test_a_sweep_that_is_only_shown_says_once_what_all_jobs_have(here, capsys):
    words = ["sweep", "run", *TINY, "trainer.seed=1,2", "dry_run=true"]
    assert run(words) == 0
    shown = capsys.readouterr()
    assert shown.out == "0 trainer.seed=1\n1 trainer.seed=2\n"
    assert "every job: model.n_layers=1 trainer.steps=3\n" in shown.err
    assert run([*words, "output=json"]) == 0
    jobs = json.loads(capsys.readouterr().out)
    assert [job["overrides"] for job in jobs] == [[*TINY, "trainer.seed=1"], [*TINY, "trainer.seed=2"]]
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["target.processes=2"], "data 1: 1 device, but the target starts 2 processes"),
        (["target.devices=2", "mesh.axes.data=4"], "data 4: 4 devices, but the target has 2 devices (1 x 2)"),
        (["target=ssh", "target.hosts=[a,b]"], "fix: mesh=fsdp"),
        (["target=slurm", "target.nodes=2", "target.python=p"], "the target starts 2 processes"),
    ],
)
def test_a_mesh_that_the_processes_cannot_have_is_told_before_the_start(here, capsys, words, message):
    assert run(["launch", *TINY, *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(here.iterdir())
