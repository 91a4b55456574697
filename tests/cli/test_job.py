"""Jobs in real processes: run directories, sweeps, exit codes, messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(tmp_path):
    def run(*words: str, **environment: str):
        return subprocess.run(
            [sys.executable, "-m", "tests.cli.example", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def clean(text: str) -> None:
    assert "Traceback" not in text
    assert "HYDRA_FULL_ERROR" not in text


def test_a_run_gets_a_directory_of_its_own(call, tmp_path):
    first, second = call("steps=20"), call("steps=20")
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout.startswith("ran small for 20")
    assert first.stderr == ""
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    assert all(sorted(p.name for p in folder.iterdir()) == ["config.yaml"] for folder in folders)


def test_the_directory_can_be_chosen(call, tmp_path):
    assert call("steps=20", "hydra.run.dir=here/it goes").returncode == 0
    assert (tmp_path / "here" / "it goes" / "config.yaml").is_file()
    assert not (tmp_path / "runs").exists()


def test_a_wrong_request_exits_2_and_leaves_nothing_behind(call, tmp_path):
    done = call("model=bgi", "stepz=3", "+zzz=1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("lmx run: 3 problems in the configuration\n")
    for fix in ("fix: model=big", "fix: steps=3"):
        assert fix in done.stderr
    clean(done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("steps", "code", "message"),
    [
        (13, 1, "lmx run: the device fell off\n"),
        (14, 75, "lmx run: stopped at step 3; lmx run resume="),
        (15, 2, "lmx run: data.path=a.txt: there is no such file\n"),
        (16, 2, "lmx run: model.n_layers=2: too few\n"),
        (17, 2, "lmx run: No such file or directory: no/such/file\n"),
    ],
)
def test_exit_codes(call, steps, code, message):
    done = call(f"steps={steps}", "hydra.run.dir=run")
    assert done.returncode == code
    assert done.stderr.startswith(message)
    clean(done.stderr)


def test_the_traceback_of_a_failure_is_kept_in_the_run(call, tmp_path):
    done = call("steps=13", "hydra.run.dir=run")
    assert "the traceback is in" in done.stderr
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.startswith("Traceback")
    assert log.rstrip().endswith("RuntimeError: the device fell off")


def test_a_sweep_runs_every_point_also_after_a_failure(call, tmp_path):
    done = call("-m", "steps=20,13,30", "model=small,big")
    assert done.returncode == 1
    (folder,) = (tmp_path / "sweeps").iterdir()
    kept = sorted(p.parent.name for p in folder.glob("*/config.yaml"))
    assert kept == ["0", "1", "4", "5"]
    assert "4 of 6 jobs done" in done.stderr
    assert [line.split(" in ")[0] for line in done.stdout.splitlines()] == [
        "ran small for 20", "ran big for 20", "ran small for 30", "ran big for 30",
    ]  # fmt: skip
    clean(done.stderr)


def test_a_sweep_with_a_bad_point_does_not_start(call, tmp_path):
    done = call("-m", "steps=20,0", "model=small,bgi")
    assert done.returncode == 2
    assert "steps = 0" in done.stderr
    assert "model = bgi" in done.stderr
    assert not list(tmp_path.iterdir())


def test_optuna_minimises_what_the_command_returns(call, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweeper.sampler.seed=0"]
    done = call("-m", *words, "steps=range(20,60)", "model=choice(small,big)")
    assert done.returncode == 0, done.stderr
    ran = [int(line.split(" for ")[1].split()[0]) for line in done.stdout.splitlines()]
    assert len(ran) == 6
    assert f"Best value: {1 / max(ran)}" in done.stderr
    assert "alembic" not in done.stderr
    assert "the sweeper chooses which to run" in done.stderr


def test_a_sweep_stops_where_a_job_is_preempted(call, tmp_path):
    done = call("-m", "steps=20,14,30")
    assert done.returncode == 75
    assert len(list(tmp_path.glob("sweeps/*/*/config.yaml"))) == 1
    assert "1 point was not begun:\n    lmx run" in done.stderr
    assert done.stderr.rstrip().endswith(" steps=30")
    assert call("hydra.mode=MULTIRUN", "steps=20,30").returncode == 0


def test_a_point_of_a_running_sweep_does_not_follow_changes_of_the_files(call, tmp_path):
    model = tmp_path / "own" / "model"
    model.mkdir(parents=True)
    (model / "mine.yaml").write_text("defaults:\n  - big\n  - _self_\nn_layers: 3\n")
    done = call("-m", "--config-dir", "own", "model=mine", "steps=18,30")
    assert done.returncode == 0
    kept = [p.read_text() for p in tmp_path.glob("sweeps/*/*/config.yaml")]
    assert len(kept) == 2
    assert all("n_layers: 3" in text for text in kept)
    assert "n_layers: 4" in (model / "mine.yaml").read_text()


def test_resuming_goes_on_in_the_same_directory(call, tmp_path):
    assert call("model=big", "hydra.run.dir=run", "steps=20").returncode == 0
    done = call("resume=run", "steps=40")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ran big for 40")
    assert "steps: 40" in (tmp_path / "run" / "config.yaml").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume=run", "model.n_layers=3"], "a resumed run cannot change this: model.n_layers: 2 -> 3"),
        (["resume=run", "hydra.run.dir=other"], "leave hydra.run.dir out"),
        (["-m", "resume=run", "steps=1,2"], "it cannot be swept"),
        (["resume=nowhere"], "there is no such directory; runs there: run"),
    ],
)
def test_what_a_resumed_run_refuses(call, tmp_path, words, message):
    assert call("hydra.run.dir=run", "steps=20").returncode == 0
    done = call(*words)
    assert done.returncode == 2
    assert message in done.stderr
    clean(done.stderr)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_hydra_shows_the_configuration(call):
    shown = call("--cfg", "job", "--resolve", "model=big")
    assert shown.returncode == 0
    assert "head_dim: 64" in shown.stdout
    part = call("--cfg", "job", "--package", "optimizer")
    assert part.stdout.startswith("# @package optimizer\n_target_: tests.config.example.schema.AdamW\n")
    assert "run.yaml" not in call("--info", "searchpath").stderr


def test_a_configuration_that_does_not_hold_is_shown_with_its_problems(call):
    done = call("--cfg", "job", "steps=-1")
    assert done.returncode == 2
    assert "steps: -1" in done.stdout
    assert "must be greater than 0" in done.stderr


def test_options_and_overrides_come_in_any_order(call):
    done = call("steps=20", "-m", "model=small,big", "--config-dir", ".", "name=x")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2


def test_the_page_of_a_command(call):
    done = call("--help", COLUMNS="100")
    assert done.returncode == 0
    for text in (
        "lmx run: an example",
        "* small",
        "a larger decoder",
        "optimizer.learning_rate",
        "[1e-3]",
        "a short one",
    ):
        assert text in done.stdout


@pytest.mark.parametrize(
    "words", [("data.weights={mine:2}",), ("-m", "data.weights={mine:2},{mine:2,yours:3}")]
)
def test_a_mapping_with_keys_that_no_file_sets_runs_as_it_was_checked(call, tmp_path, words):
    done = call(*words, "hydra.run.dir=one", "hydra.sweep.dir=one")
    assert done.returncode == 0, done.stderr
    last = sorted((tmp_path / "one").rglob("config.yaml"))[-1]
    assert "mine: 2" in last.read_text()
