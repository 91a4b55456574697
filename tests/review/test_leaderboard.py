"""`lmx runs leaderboard`: time to a target, over seeds, from run directories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmx.cli.main import run as lmx
from lmx.io.run_dir import RunDir
from lmx.review.leaderboard import AS_IT_IS, Entry, arms, below, renewed


def make_run(path: Path, seed: int, losses: list[float], *overrides: str, step_time: float = 0.5) -> None:
    """A run that evaluates every ten steps, each of `step_time` seconds."""
    run = RunDir.create(path)
    tree = {"name": "mine", "trainer": {"seed": seed}, "model": {"n_layers": 2}}
    run.write_config(tree, [f"trainer.seed={seed}", "data.path=here", "trainer.log_every=10", *overrides])
    rows = [
        {"step": 10 * (i + 1), "loss": loss, "eval/loss": loss, "step_time": step_time}
        for i, loss in enumerate(losses)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.write_summary({"status": "done", "name": "mine", "devices": 8, "device_kind": "v5e"})
    run.close()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("experiments/mine").mkdir(parents=True)
    for seed, last in enumerate((3.26, 3.27, 3.265)):
        late = seed / 100
        make_run(Path(f"runs/base{seed}"), seed, [4.0, 3.279, last], step_time=0.5 + late)
        make_run(Path(f"runs/slow{seed}"), seed, [4.0, 3.5, last], "model.n_layers=9", step_time=0.6 + late)
    make_run(Path("runs/never"), 0, [4.0, 3.9], "optimizer=adamw")
    return tmp_path


def ask(capsys, *words: str) -> tuple[int, str, str]:
    code = lmx(["runs", "leaderboard", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_arms_are_over_seeds_and_the_first_evaluation_counts(here, capsys):
    code, out, _ = ask(capsys, "mine", "loss=3.28", "output=json")
    assert code == 0
    base, slow, never = json.loads(out)["arms"]
    assert [arm["changes"] for arm in (base, slow, never)] == [
        AS_IT_IS,
        "model.n_layers=9",
        "optimizer=adamw",
    ]
    assert base["mean"] == pytest.approx(20 * 0.51)
    assert slow["mean"] == pytest.approx(30 * 0.61)
    assert (base["runs"], base["reached"], never["reached"], never["mean"]) == (3, 3, 0, None)
    assert base["p_target"] < 0.05
    assert slow["p_difference"] < 0.001
    assert never["p_target"] is None


def test_the_file_keeps_runs_that_are_gone_and_takes_in_new_ones_once(here, capsys):
    ask(capsys, "mine", "loss=3.28")
    before = json.loads(Path("experiments/mine/leaderboard.json").read_text())["runs"]
    assert len(before) == 7
    for path in Path("runs").glob("slow*"):
        path.rename(here / path.name)
    make_run(Path("runs/base3"), 3, [4.0, 3.2])
    code, out, _ = ask(capsys, "mine", "loss=3.28")
    assert code == 0
    after = json.loads(Path("experiments/mine/leaderboard.json").read_text())["runs"]
    assert len(after) == 8
    assert out == Path("experiments/mine/leaderboard.md").read_text()
    assert "| as it is | 8 x v5e | 4 | 4 |" in out


def test_what_is_wrong_is_said_with_a_cure(here, capsys):
    assert ask(capsys, "mine", "loss=3.28")[0] == 0
    code, _, err = ask(capsys, "mine", "loss=3.0")
    assert (code, "to=FILE names another" in err) == (2, True)
    code, _, err = ask(capsys, "other", "loss=3.0")
    assert (code, "there is no folder experiments/other" in err) == (2, True)
    code, _, err = ask(capsys, "mine")
    assert (code, "loss = ???" in err) == (2, True)


def test_a_mean_below_the_target_needs_two_seeds():
    assert below([3.2], 3.28) is None
    assert below([3.27, 3.271, 3.272], 3.28) < 0.01
    assert below([3.29, 3.27, 3.28], 3.28) == pytest.approx(0.5)


def test_a_run_counts_once():
    one = Entry("a", AS_IT_IS, 0, "1 x cpu", 1.0, 1, 3.0, "", "")
    again = one._replace(seconds=2.0)
    assert renewed([one], [again]) == [again]
    assert arms([one], 3.28)[0].p_difference is None
