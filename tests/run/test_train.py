"""`lmx train` as a whole, in real processes: results, resuming, kills, signals, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lmx.io.ledger import seen_by
from lmx.review.life import of
from lmx.review.life import text as text_of
from lmx.run.fork import fork
from tests.support import ROOT

SMALL = [
    "model.d_model=48",
    "model.n_heads=3",
    "model.n_layers=2",
    "optimizer=muon",
    "trainer.steps=20",
    "trainer.sequence_length=64",
    "trainer.global_batch_size=4",
    "trainer.log_every=1",
    "trainer.eval_every=10",
    "trainer.eval_sequences=8",
    "trainer.eval_batch_size=8",
    "trainer.sample.tokens=0",
    "checkpoint.every=5",
    "data=text",
    "logging=quiet",
]
TIMES = {"step_time", "tokens_per_second", "mfu"}
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Real text for the runs: this project's own source, a file a document."""
    folder = tmp_path_factory.mktemp("text")
    for i, path in enumerate(sorted((ROOT / "lmx").rglob("*.py"))):
        (folder / f"{i:03d}.txt").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def command(*overrides):
    return [sys.executable, "-m", "lmx", "train", *overrides]


def lmx(*overrides, expect=0):
    done = subprocess.run(command(*overrides), env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == expect, (
        f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )
    return done


def rows(run: Path):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in lines]


def summary(run: Path):
    return json.loads((run / "summary.json").read_text())


def state_of(run: Path, step: int):
    """Every array of a checkpoint, by its path."""
    program = """
import sys, numpy as np, jax
from orbax.checkpoint import v1 as ocp
tree = ocp.load(sys.argv[1])
flat = jax.tree_util.tree_flatten_with_path(tree)[0]
np.savez(sys.argv[2], **{jax.tree_util.keystr(p): np.asarray(x) for p, x in flat})
"""
    to = run / f"state-{step}.npz"
    checkpoint = run.resolve() / "checkpoints" / str(step) / "state"
    subprocess.run([sys.executable, "-c", program, str(checkpoint), str(to)], env=ENVIRONMENT, check=True)
    return dict(np.load(to))


def assert_same_state(a: Path, b: Path, step: int):
    left, right = state_of(a, step), state_of(b, step)
    assert left.keys() == right.keys()
    assert len(left) > 10
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.fixture(scope="module")
def straight(text, tmp_path_factory):
    """An undisturbed run."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    done = lmx(*SMALL, f"data.path={text}", f"hydra.run.dir={run}", "output=json")
    return run, done


def test_a_run_leaves_what_it_promises(straight):
    run, done = straight
    found = {p.name for p in run.iterdir()}
    expected = {
        "config.yaml",
        "overrides.yaml",
        "provenance.json",
        "metrics.jsonl",
        "checkpoints",
        "log.txt",
        "summary.json",
        "ledger.jsonl",
    }
    assert expected <= found
    result = json.loads(done.stdout)
    assert result == json.loads((run / "summary.json").read_text())
    assert result["status"] == "done"
    assert result["steps"] == 20
    assert result["tokens"] == 20 * 4 * 64
    assert result["loss"] < 4.8 < np.log(256)
    bits = result["eval_loss"] / np.log(2)  # a token; the end of a document is one of no bytes
    assert bits * (1 - 1e-6) <= result["eval_bits_per_byte"] <= bits * (1 + 8 / 512)
    for key in ("params", "tokens_per_second", "time_to_first_step", "wall_time"):
        assert result[key] > 0
    seen = seen_by(run)
    assert (seen.steps, seen.examples, seen.gaps) == (20, 80, ())
    assert 0 < result["goodput"]["fraction"] < 1
    assert sum(result["goodput"]["seconds"].values()) == pytest.approx(result["goodput"]["wall"], abs=0.1)
    recorded = rows(run)
    assert [row["step"] for row in recorded] == list(range(1, 21))
    assert [row["step"] for row in recorded if "eval/loss" in row] == [10, 20]
    assert {"step", "tokens", "loss", "grad_norm", "learning_rate"} <= recorded[0].keys()


def test_the_same_command_gives_the_same_run(straight, text, tmp_path):
    lmx(*SMALL, f"data.path={text}", f"hydra.run.dir={tmp_path / 'again'}")
    assert rows(tmp_path / "again") == rows(straight[0])


def test_killed_and_resumed_equals_uninterrupted(straight, text, tmp_path):
    """kill -9 after some checkpoint; the resumed run ends in the same parameters, moments and metrics, bit for bit."""
    run = tmp_path / "killed"
    process = subprocess.Popen(
        command(*SMALL, f"data.path={text}", f"hydra.run.dir={run}"), env=ENVIRONMENT, cwd=ROOT
    )
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "5").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert (run / "checkpoints" / "5").exists()
    lmx(f"resume={run}")
    assert rows(run) == rows(straight[0])
    assert seen_by(run) == seen_by(straight[0])
    life = of(run)
    assert [stage.status for stage in life.stages] == ["died", "done"]
    assert life.goodput.restarts == 1
    assert (
        life.goodput.lost
        == life.stages[0].lost
        == life.stages[0].attempt.step - life.stages[1].attempt.start["step"]
    )
    assert "attempt 1" in text_of(life)
    assert_same_state(run, straight[0], 20)
    assert summary(run)["eval_loss"] == summary(straight[0])["eval_loss"]


def test_steps_in_which_nothing_is_learnt_are_told(tmp_path):
    lines = [json.dumps({"question": f"why {n}? " * 40, "answer": "so"}) for n in range(200)]
    (tmp_path / "long.jsonl").write_text("\n".join(lines))
    data = [f"data.path={tmp_path}/long.jsonl", "data.field=answer", "data.prompt_field=question"]
    small = [word for word in SMALL if word != "data=text"]
    done = lmx(
        *small,
        "data=jsonl",
        *data,
        "trainer.steps=3",
        "trainer.eval_every=null",
        f"hydra.run.dir={tmp_path}/r",
        expect=1,
    )
    assert "the evaluation split has no token whose loss counts" in done.stderr  # at its end
    assert done.stderr.count("no token of the batch is learnt") == 1


def test_a_fault_that_had_come_does_not_come_again_in_a_fork(straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight[0], run)
    lines = [f'{{"fault": "NanLoss", "step": {step}, "process": 0}}\n' for step in (10, 18)]
    (run / "faults.jsonl").write_text("".join(lines))
    fork(run, 15, [], tmp_path / "same")
    assert (tmp_path / "same/faults.jsonl").read_text() == lines[0]
    fork(run, 15, ["fault=nan_loss"], tmp_path / "other")
    assert not (tmp_path / "other/faults.jsonl").exists()


def test_a_fork_without_changes_is_the_run_itself_and_one_that_does_not_fit_leaves_nothing(
    straight, tmp_path
):
    to = tmp_path / "fork"
    words = [sys.executable, "-m", "lmx", "fork", f"{straight[0]}@15", f"to={to}"]
    done = subprocess.run(words, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert rows(to) == rows(straight[0])
    assert_same_state(to, straight[0], 20)
    life = of(to)
    assert (life.fork.run, life.fork.step, life.fork.changes) == (str(straight[0]), 15, {})
    assert life.seen.gaps == ((1, 15),)
    other = [word if not word.startswith("to=") else f"to={tmp_path / 'other'}" for word in words]
    done = subprocess.run(
        [*other, "optimizer=lion"], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "opt_state" in done.stderr
    assert "model.init_from=" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["fork"]


def test_a_step_looked_into_is_the_step_that_the_run_did(straight):
    words = [sys.executable, "-m", "lmx", "spike", str(straight[0]), "step=18", "rows=4", "output=json"]
    done = subprocess.run(words, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    then = rows(straight[0])[17]
    assert (found["began"], found["loss"], found["grad_norm"]) == (15, then["loss"], then["grad_norm"])
    assert sorted(one["example"] for one in found["rows"]) == [68, 69, 70, 71]
    losses = [one["loss"] for one in found["rows"]]
    assert losses == sorted(losses, reverse=True)
    assert min(losses) < then["loss"] < max(losses)
    assert all(one["tokens"][0]["loss"] > one["loss"] for one in found["rows"])
    assert {layer["kind"] for layer in found["layers"]} == {"grad", "update"}
    late = subprocess.run([*words, "step=21"], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert late.returncode == 2
    assert "has come to step 20" in late.stderr


def test_sigterm_saves_and_the_run_goes_on_on_another_host(straight, text, tmp_path):
    """There it has nothing but what is in the remote tier."""
    run, tier = tmp_path / "stopped", tmp_path / "tier"
    tiers = ["checkpoint=tiered", f"checkpoint.remote.path={tier}"]
    process = subprocess.Popen(
        command(*SMALL, *tiers, f"data.path={text}", f"hydra.run.dir={run}", "trainer.steps=20"),
        env=ENVIRONMENT,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= 1:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    assert f"lmx train resume={run}" in stderr
    assert summary(run)["status"] == "stopped"
    reached = summary(run)["steps"]
    assert reached < 20
    assert (run / "checkpoints" / str(reached)).is_dir()
    (there,) = tier.iterdir()
    shutil.rmtree(run)
    other = shutil.copytree(there / "run", tmp_path / "other")
    done = lmx(f"resume={other}")
    assert f"the checkpoint of step {reached} was brought from {there}" in done.stderr
    assert rows(other) == rows(straight[0])
    assert_same_state(other, straight[0], 20)
    assert "sent to the remote tier" in text_of(of(other))


def test_resume_refuses_another_model_and_shows_it(straight):
    done = lmx(f"resume={straight[0]}", "model.n_layers=3", expect=2)
    assert "model.n_layers" in done.stderr
    assert "2 -> 3" in done.stderr
    assert "Traceback" not in done.stderr


def test_resume_goes_further_when_asked(straight, text, tmp_path):
    """More steps and other logging are allowed; the constant part of the run stays what it was."""
    run = tmp_path / "longer"
    lmx(*SMALL, f"data.path={text}", f"hydra.run.dir={run}", "schedule=constant", "trainer.steps=5")
    lmx(f"resume={run}", "trainer.steps=8", "trainer.log_every=2")
    assert [row["step"] for row in rows(run)][-2:] == [6, 8]
    assert summary(run)["steps"] == 8


def test_a_run_directory_is_used_once(straight, text):
    done = lmx(*SMALL, f"data.path={text}", f"hydra.run.dir={straight[0]}", expect=2)
    assert f"resume={straight[0]}" in done.stderr
    assert len(rows(straight[0])) == 20


def test_a_loss_that_stays_not_finite_ends_the_run(text, tmp_path):
    run = tmp_path / "diverged"
    done = lmx(
        *SMALL,
        f"data.path={text}",
        f"hydra.run.dir={run}",
        "trainer.compute_dtype=float16",
        "model.embedding_norm=false",
        "model.initializer.embedding=1e6",
        "model.logits_softcap=null",
        "trainer.max_skipped=3",
        expect=1,
    )
    assert "was not finite in 3 updates in a row" in done.stderr
    assert "Traceback" not in done.stderr
    assert summary(run)["status"] == "failed"


def test_a_request_that_cannot_be_met_leaves_nothing(tmp_path):
    run = tmp_path / "never"
    done = lmx(*SMALL, "data.path=/no/such/text", f"hydra.run.dir={run}", expect=2)
    assert "/no/such/text" in done.stderr
    assert "Traceback" not in done.stderr
    assert not run.exists()


def test_generate_and_eval_from_a_run(straight):
    def call(*words):
        done = subprocess.run(
            [sys.executable, "-m", "lmx", *words], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run = straight[0]
    one, same = (
        call("generate", f"from={run}", "prompt=import ", "max_new_tokens=12", "seed=3", "output=json")
        for _ in range(2)
    )
    assert one[0]["tokens"] == same[0]["tokens"]
    assert one[0].keys() == {"prompt", "text", "tokens", "finish_reason", "tokens_per_second"}
    assert len(one[0]["tokens"]) == 12 or one[0]["finish_reason"] == "stop"
    found = call("eval", f"from={run}", "sequences=8", "batch_size=8", "output=json")
    assert found["loss"] == pytest.approx(summary(run)["eval_loss"], rel=1e-6)
    assert found["step"] == 20


def test_a_last_state_that_finds_no_room_is_no_end(text, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, "size=500k", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        run = disk / "run"
        few = ["trainer.steps=4", "trainer.eval_every=null", "checkpoint.every=2"]
        told = lmx(*SMALL, *few, f"data.path={text}", f"hydra.run.dir={run}", expect=1)
        assert "step 4, but its state is not saved" in told.stderr
        assert "start again" in told.stderr
        shutil.rmtree(run)
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        told = lmx(*SMALL, *few, f"data.path={text}", f"hydra.run.dir={run}", expect=75)
        assert f"lmx train resume={run}" in told.stderr
        assert json.loads((run / "summary.json").read_text())["status"] == "stopped"
        subprocess.run(["mount", "-o", "remount,size=60m", disk], check=True)
        lmx(f"resume={run}")
        assert json.loads((run / "summary.json").read_text())["status"] == "done"
        assert (run / "checkpoints" / "4").is_dir()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
