"""`lmx verify resume` and `lmx verify faults`: what they ask of a configuration, their words, and the whole of them."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from lmx.config.compose import Composer
from lmx.config.errors import ConfigError
from lmx.run.same_run import Comparison, Difference
from lmx.run.verify_faults_config import VerifyFaults
from lmx.run.verify_resume import PHASES, Bench, NotExact, Resumed, _shares, check, report
from lmx.run.verify_resume_config import VerifyResume
from lmx.run.verify_resume_text import as_text
from tests.support import CONF, ROOT


def composed(command, schema, *overrides):
    composer = Composer(command, schema, overrides=overrides)
    return composer.check(overrides)


def keys(command, schema, *overrides):
    return [problem.key for problem in composed(command, schema, *overrides)[1]]


def test_contradictions():
    assert keys("verify resume", VerifyResume) == []
    assert keys("verify resume", VerifyResume, "steps=10") == ["steps"]
    assert keys("verify resume", VerifyResume, "verify.devices=3") == ["verify.devices"]
    assert keys("verify resume", VerifyResume, "verify.moved.home=[there]") == ["verify.processes"]
    assert keys("verify faults", VerifyFaults) == []
    assert keys("verify faults", VerifyFaults, "verify.rows=[kill_hots]") == ["verify.rows"]
    assert keys("verify faults", VerifyFaults, "verify.at=4") == ["verify.at"]


def test_a_mesh_that_the_model_cannot_have_is_told_before_anything_runs(tmp_path):
    words = ["experiment=quickstart", "verify.mesh=fsdp_tp"]  # of three heads
    with pytest.raises(
        ConfigError, match=r"heads = 3 .* cannot be split 2 ways[\s\S]*fix: verify\.mesh=hsdp"
    ):
        Bench(composed("verify resume", VerifyResume, *words)[0], tmp_path)


def test_every_row_of_faults_has_a_configuration():
    config = composed("verify faults", VerifyFaults)[0].config
    assert set(config.verify.rows) <= set(config.verify.overrides)
    chosen = {line.partition("=")[2] for lines in config.verify.overrides.values() for line in lines[:1]}
    assert chosen == {path.stem for path in (CONF / "fault").glob("*.yaml")}


def test_kills_are_spread_over_the_phases(tmp_path):
    bench = Bench.__new__(Bench)
    bench.config = composed("verify resume", VerifyResume)[0].config
    bench.random, bench.phases, bench.wall = random.Random(3), [], {"home": 4.0}
    plans = [bench.plan_kill("home", 10) for _ in range(100)]
    assert Counter(plan.phase for plan in plans) == dict.fromkeys(PHASES, 20)
    assert all(10 < plan.step <= 20 for plan in plans if plan.phase in ("step", "save", "written"))
    assert all(plan.step % 5 == 0 for plan in plans if plan.phase in ("save", "written"))
    assert "restore" not in {bench.plan_kill("home", 0).phase for _ in range(50)}


def test_shares():
    assert _shares(20, [3, 1]) == [15, 5]
    assert _shares(7, [1, 1]) == [4, 3]


def test_the_verdict_names_the_first_difference():
    config = composed("verify resume", VerifyResume)[0].config
    same = Comparison({"params": 7}, {"params": 0.0}, [])
    other = Comparison({"params": 7}, {"params": 0.5}, [Difference("params", "w[0]", 40, 1.0, 2.0, 0.5)])
    good = Resumed("home", "home", {"save": 3, "step": 1}, [], 0.2, same, None)
    result = report(config, [good])
    check(result)
    assert "4 kills in 1 runs of 40 steps: 3 in a save, 1 in a step" in as_text(result)
    assert as_text(result).endswith("resuming is exact")
    wrong = report(config, [good, good._replace(comparison=other, ends=math.inf)])
    with pytest.raises(NotExact, match=r"params w\[0\] at step 40: 1.0 in the undisturbed run, 2.0 here"):
        check(wrong)
    assert as_text(wrong).endswith("1 of 2 runs are WRONG")
    lost = report(config, [good._replace(lost=["start 2: after step 5, 10 was saved"])])
    with pytest.raises(NotExact, match="10 was saved"):
        check(lost)


def run(*words):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "lmx", "verify", *words, "output=json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SMALL = ["model.n_layers=1", "model.d_model=32", "model.n_heads=2", "model.n_kv_heads=1"]
SMALL += ["trainer.sequence_length=32", "trainer.global_batch_size=4", "trainer.eval_batch_size=4"]
SMALL += ["trainer.eval_sequences=4"]


def test_two_kills():
    """In one process on one device; `-m slow` has the rest."""
    few = ["kills=2", "steps=12", "verify.every=3", "verify.devices=1", "verify.killed={home:1,hosts:0}"]
    result = run(
        "resume", *SMALL, *few, "verify.processes={home:1,hosts:1,mesh:1}", "verify.moved={home:[],hosts:[]}"
    )
    assert result["exact"]
    assert sum(result["kills"].values()) == 2
    assert result["rows"][0]["compared"]["data"] >= 12 * 4
    assert result["rows"][0]["compared"]["params"] >= 5


@pytest.mark.slow
def test_twenty_kills_other_hosts_and_another_mesh():
    result = run("resume", *SMALL, "trainer.global_batch_size=8")
    assert result["exact"]
    assert result["lost"] == []
    assert sum(result["kills"].values()) >= 20
    assert result["dead_host_s"] < 60


def test_processes_of_which_one_cannot_save_go_on_together():
    """A fault of the disk of one of two processes; `-m slow` has the others."""
    result = run(
        "faults", *SMALL, "steps=12", "verify.every=3", "verify.at=5", "verify.rows=[read_only_disk]"
    )
    assert result["survived"]
    assert [row["name"] for row in result["rows"]] == ["read_only_disk"]


@pytest.mark.slow
def test_every_fault_is_survived():
    result = run("faults")
    assert result["survived"]
    assert len(result["rows"]) >= 16
