"""`lmx runs`: which runs there are, what differs between them, their curves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lmx.cli.main import run as lmx
from lmx.config.errors import RequestError
from lmx.io.run_dir import RunDir
from lmx.review.runs import ABSENT, compare, describe, find_runs, labels, list_runs, select
from lmx.review.runs_text import short_overrides


def make_run(
    path: Path, *, name: str = "tiny", status: str = "done", steps: int = 40, lr: float = 1e-3, **config
) -> Path:
    run = RunDir.create(path)
    tree = {"name": name, "trainer": {"steps": steps}, "optimizer": {"learning_rate": lr}, **config}
    run.write_config(tree, [])
    rows = [
        {"step": s, "tokens": s * 10, "loss": 3 - s / 100, "tokens_per_second": 500.0}
        for s in range(10, steps + 1, 10)
    ]
    for row in rows:
        if row["step"] % 20 == 0:
            row |= {"eval/loss": 3.1 - row["step"] / 100 - lr, "eval/bits_per_byte": 2.0}
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary: dict = {"status": status, "name": name}
    if status == "done":
        summary |= {
            "steps": steps,
            "loss": rows[-1]["loss"],
            "eval_loss": 3.1 - steps / 100 - lr,
            "tokens_per_second": 480.0,
        }
    run.write_summary(summary)
    run.close()
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/2026-01-01_tiny_ab"), lr=1e-3)
    make_run(Path("runs/2026-01-02_muon_cd"), name="muon", lr=2e-2, steps=60, clip=1.0)
    make_run(Path("sweeps/s/0"), name="sweep", lr=1e-4)
    make_run(Path("sweeps/s/1"), name="sweep", lr=1e-5)
    Path("runs/2026-01-01_tiny_ab/checkpoints/10").mkdir(parents=True)
    Path("runs/notes").mkdir()
    return tmp_path


def ask(capsys, *arguments: str) -> tuple[int, str, str]:
    code = lmx(["runs", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_every_run_is_found_once_and_nothing_else(here):
    found = find_runs(["runs", "sweeps", "runs"])
    assert [p.name for p in found] == ["2026-01-01_tiny_ab", "2026-01-02_muon_cd", "0", "1"]
    assert find_runs(["sweeps/s/1"]) == [Path("sweeps/s/1")]
    with pytest.raises(RequestError, match="root=nothing: no such folder"):
        find_runs(["nothing"])


def test_what_says_running_runs_only_while_someone_holds_it(here):
    path = make_run(Path("runs/live"), status="running")
    assert describe(path).status == "died"
    run = RunDir.open(path)
    line = describe(path)
    run.close()
    assert line.status == "running"
    assert (line.step, line.total, line.loss, line.eval_loss) == (40, 40, 2.6, pytest.approx(2.699))


def test_the_order_of_the_list(here):
    names = lambda sort: [Path(run.path).name for run in list_runs(["runs", "sweeps"], sort=sort)]
    assert names("eval_loss")[0] == "2026-01-02_muon_cd"
    assert names("name") == ["2026-01-02_muon_cd", "0", "1", "2026-01-01_tiny_ab"]
    assert [run.name for run in list_runs(["runs"], match="*muon*")] == ["muon"]


@pytest.mark.parametrize(
    "name", ["runs/2026-01-02_muon_cd", "2026-01-02_muon_cd", "muon", "*muon*", "runs/*muon*"]
)
def test_a_run_is_meant_by_path_folder_name_or_pattern(here, name):
    assert select([name], ["runs"]) == [Path("runs/2026-01-02_muon_cd")]


def test_a_name_that_means_none_or_several_is_refused(here):
    with pytest.raises(RequestError, match=r"moun: there is no such run"):
        select(["moun"], ["runs", "sweeps"])
    with pytest.raises(
        RequestError, match=r"sweep: 2 runs have this name; give the path of one:\n    sweeps/s/0"
    ):
        select(["sweep"], ["sweeps"])


def test_points_of_a_sweep_are_told_apart_by_their_overrides(here, capsys):
    for number, (rate, seed) in enumerate([("1e-4", 0), ("1e-5", 1)]):
        lines = ["model=tiny", f"optimizer.learning_rate={rate}", f"+trainer.seed={seed}"]
        Path(f"sweeps/s/{number}/overrides.yaml").write_text(yaml.safe_dump(lines))
    varied = {run.path: run.varied for run in list_runs(["runs", "sweeps"])}
    assert varied["sweeps/s/1"] == {"optimizer.learning_rate": "1e-5", "trainer.seed": "1"}
    assert varied["runs/2026-01-01_tiny_ab"] == {}
    assert "learning_rate=1e-4 seed=0" in ask(capsys)[1]
    assert "model=tiny" not in ask(capsys)[1]
    assert short_overrides([{"a.kind": "x" * 60, "b.kind": "y"}]) == [f"a.kind={'x' * 60} b.kind=y"]


def test_labels_tell_runs_apart(here):
    assert labels([Path("sweeps/s/0"), Path("runs/2026-01-01_tiny_ab")]) == ["0", "2026-01-01_tiny_ab"]
    assert labels([Path("sweeps/s/0"), Path("sweeps/s/1")]) == ["0", "1"]
    make_run(Path("sweeps/t/0"))
    assert labels([Path("sweeps/s/0"), Path("sweeps/t/0")]) == ["s/0", "t/0"]


def test_a_comparison_shows_what_differs_and_the_losses_at_the_last_common_evaluation(here):
    found = compare(select(["tiny", "muon"], ["runs"]))
    assert found.config == {
        "name": ["tiny", "muon"],
        "trainer.steps": [40, 60],
        "optimizer.learning_rate": [1e-3, 2e-2],
        "clip": [ABSENT, 1.0],
    }
    assert found.result["steps"] == [40, 60]
    assert found.result["eval_loss at step 40"] == pytest.approx([2.699, 2.68])
    with pytest.raises(RequestError, match="needs two runs or more"):
        compare(select(["tiny"], ["runs"]))


def test_the_commands_answer_in_text_and_in_json(here, capsys):
    code, out, _ = ask(capsys)
    assert code == 0
    assert len(out.splitlines()) == 5
    code, out, _ = ask(capsys, "output=json", "sort=eval_loss")
    assert json.loads(out)[0] | {"age": 0} == {
        "name": "muon",
        "path": "runs/2026-01-02_muon_cd",
        "status": "done",
        "step": 60,
        "total": 60,
        "loss": 2.4,
        "eval_loss": pytest.approx(2.48),
        "bits_per_byte": 2.0,
        "tokens_per_second": 480.0,
        "age": 0,
        "varied": {},
    }
    code, out, _ = ask(capsys, "compare=[tiny,muon]")
    assert "optimizer.learning_rate  0.001" in out
    assert "-0.2190" in out
    code, out, _ = ask(capsys, "compare=[tiny,muon]", "output=json")
    assert json.loads(out)["config"]["clip"] == {"runs/2026-01-02_muon_cd": 1.0}
    code, out, _ = ask(capsys, "compare=[runs/2026-01-01_tiny_ab,runs/2026-01-01_tiny_ab]")
    assert code == 2


def test_a_picture_of_several_runs(here, capsys):
    code, out, _ = ask(capsys, "plot=[tiny,muon]", "to=out/loss.png")
    assert code == 2
    code, out, _ = ask(capsys, "plot=[tiny,muon]", "to=loss.png", "x=tokens")
    assert (code, out) == (0, "2 runs drawn: loss.png\n")
    assert Path("loss.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plot=[tiny]", "compare=[tiny,muon]"], "two requests"),
        (["compare=[tiny]"], "needs two runs or more (or a pattern), got 1"),
        (["plot=[tiny]", "to=loss.xyz"], "'xyz' is not supported"),
        (["root=nowhere"], "root=nowhere: no such folder"),
        (["compare=[tiny,mouon]"], "did you mean"),
        (["x=epochs"], "x"),
    ],
)
def test_wrong_requests_leave_nothing_and_exit_with_2(here, capsys, arguments, said):
    code, _, err = ask(capsys, *arguments)
    assert code == 2
    assert said in err
    assert not list(Path().glob("*.png"))


def test_a_configuration_that_cannot_be_read_is_listed_all_the_same(here):
    Path("runs/broken").mkdir()
    Path("runs/broken/config.yaml").write_text("a: [")
    Path("runs/broken/summary.json").write_text("{")
    line = describe(Path("runs/broken"))
    assert (line.name, line.status, line.step) == ("broken", "died", None)
    assert yaml.safe_load("a: 1") == {"a": 1}
