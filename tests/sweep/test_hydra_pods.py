"""`lmx train -m hydra/launcher=pods` on launch targets, and what `lmx sweep` makes of a launcher's folder."""

import json
import subprocess
import sys

import pytest
import yaml

from lmx.sweep.plan import read_plan
from tests.support import ROOT
from tests.sweep.gangs import local, pool_of
from tests.sweep.support import environment, losses

SMALL = ["trainer.steps=4", "model=tiny", "trainer.seed=0,1"]


def lmx(*words, cwd):
    env = environment() | {"PYTHONPATH": str(ROOT), "CHEAP_PAUSE": "0.01"}
    return subprocess.run(
        [sys.executable, "-m", "lmx", *words], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def test_a_named_pool_of_targets_runs_the_jobs_and_lmx_sweep_knows_them(tmp_path):
    (tmp_path / "own/pool").mkdir(parents=True)
    pool = pool_of({"a": local(tmp_path), "b": local(tmp_path)})
    (tmp_path / "own/pool/mine.yaml").write_text(yaml.safe_dump(pool))
    words = ["train", "-m", "hydra/launcher=pods", "hydra.launcher.pool=mine", "hydra.sweep.dir=m"]
    done = lmx(*words, "--config-dir", "own", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for number in range(2):
        assert losses(tmp_path / "m" / str(number))[0][-1][0] == 4
    (folder,) = (tmp_path / "m/.launcher").iterdir()
    assert {job.overrides[-1] for job in read_plan(folder).jobs} == {"trainer.seed=0", "trainer.seed=1"}
    table = lmx("sweep", "table", str(folder), cwd=tmp_path)
    assert table.stdout.count("done") >= 2, table.stderr
    assert "nothing runs" in lmx("sweep", "cancel", str(folder), cwd=tmp_path).stdout
    assert "2 of 2 jobs done" in lmx("sweep", "resume", str(folder), cwd=tmp_path).stderr


_TINY = ["model.n_layers=1", "model.d_model=32", "model.n_heads=2", "trainer.steps=2", "trainer.eval_every=2"]
_TINY += [
    "trainer.eval_sequences=4",
    "trainer.sample.tokens=0",
    "trainer.global_batch_size=4",
    "logging=quiet",
]
_OPTUNA = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"]


@pytest.mark.parametrize(
    ("launcher", "more"),
    [
        ("local_pool", ["hydra.launcher.size=2", "optimizer.learning_rate=1e-3,2e-3"]),
        ("pods", [*_OPTUNA, "optimizer.learning_rate=interval(1e-4,1e-2)"]),
    ],
)
def test_real_runs_on_the_pools_of_this_machine(tmp_path, launcher, more):
    words = ["train", "-m", f"hydra/launcher={launcher}", *more, *_TINY, "hydra.sweep.dir=m"]
    done = lmx(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summaries = [json.loads((tmp_path / f"m/{number}/summary.json").read_text()) for number in range(2)]
    assert [summary["status"] for summary in summaries] == ["done", "done"]
    assert summaries[0]["eval_loss"] != summaries[1]["eval_loss"]
    if launcher == "pods":
        found = yaml.safe_load((tmp_path / "m/optimization_results.yaml").read_text())
        assert found["best_value"] == min(summary["eval_loss"] for summary in summaries)


@pytest.mark.parametrize("name", ["nowhere"])
def test_an_unknown_pool_is_named_with_those_there_are(tmp_path, name):
    done = lmx("train", "-m", "hydra/launcher=pods", f"hydra.launcher.pool={name}", *SMALL, cwd=tmp_path)
    assert done.returncode != 0
    assert f"hydra.launcher.pool={name}: there is no such pool; there are gangs, local" in done.stderr
