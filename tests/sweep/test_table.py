import csv
import io
import json

import pytest

from lmx.config.errors import RequestError
from lmx.sweep.config import SweepPlot, SweepTable
from lmx.sweep.plot import draw
from lmx.sweep.status import overview, short_key, watch
from lmx.sweep.table import collect, show
from tests.sweep.support import drive, make_sweep


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    make_sweep(folder, ["trainer.steps=4", "optimizer.learning_rate=1e-3,1e-2", "trainer.seed=0,1,666"])
    assert drive(folder, max_failures=0)[0] == 1
    return folder


def config(swept, **changes):
    values = {"sweep": str(swept), "metric": "eval_loss", "best_is": "lowest", "seed": "trainer.seed"}
    return SweepTable(**{**values, "output": "text", **changes})


def test_arms_leave_out_failed_jobs(swept):
    found = collect(swept, metric="eval_loss", seed="trainer.seed", lowest=True).found
    assert [arm.setting for arm in found] == [
        {"optimizer.learning_rate": "0.001"},
        {"optimizer.learning_rate": "0.01"},
    ]
    assert [(arm.jobs, len(arm.values)) for arm in found] == [(3, 2), (3, 2)]
    assert found[1].mean - found[0].mean == pytest.approx(0.9)


def test_csv_and_json_have_a_row_a_job(swept, capsys):
    show(swept, config(swept, output="csv"))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["status"] for row in rows] == ["done", "done", "failed"] * 2
    assert rows[0]["optimizer.learning_rate"] == "0.001"
    assert float(rows[0]["eval_loss"]) < 1.0
    assert rows[2]["eval_loss"] == ""
    show(swept, config(swept, output="json"))
    assert [job["job"] for job in json.loads(capsys.readouterr().out)["jobs"]] == list(range(6))


def test_text_and_markdown_state_the_test(swept, capsys):
    for output in ("text", "markdown"):
        show(swept, config(swept, output=output))
        said = capsys.readouterr().out
        assert "Welch's t-test of eval_loss" in said
        assert "2 of 6 jobs are not done" in said


def test_nothing_is_done_yet(tmp_path, capsys):
    make_sweep(tmp_path, ["trainer.steps=4", "optimizer.learning_rate=1e-3,1e-2", "trainer.seed=0,1"])
    show(tmp_path, config(tmp_path))
    said = capsys.readouterr().out
    assert "4 of 4 jobs are not done" in said
    assert "nothing can be said of noise before two arms have two results each" in said
    values = {**config(tmp_path).model_dump(), "kind": "parameter", "x": None, "to": None}
    with pytest.raises(RequestError, match="no job is done yet"):
        draw(tmp_path, SweepPlot(**values))


def test_status_says_why_jobs_failed(swept, capsys):
    watch(swept, how="never", output="text")
    said = capsys.readouterr().out
    assert "job 2 failed: lmx train: planted failure\n" in said
    assert "4 of 6 done, 2 failed" in said


def test_unknown_metric_names_those_there_are(swept):
    with pytest.raises(
        RequestError, match=r"metric=perplexity: no job has it; there are steps, loss, eval_loss"
    ):
        collect(swept, metric="perplexity", seed="trainer.seed", lowest=True)


@pytest.mark.parametrize("kind", ["curves", "parameter"])
def test_pictures_are_drawn(swept, tmp_path, kind):
    values = {**config(swept).model_dump(), "kind": kind, "x": None, "to": str(tmp_path / "p.png")}
    to = draw(swept, SweepPlot(**values))
    assert to.read_bytes()[:4] == b"\x89PNG"


def test_overview_knows_steps_and_attempts(swept):
    rows = overview(swept).rows
    assert [(row.step, row.total) for row in rows[:2]] == [(4, 4), (4, 4)]
    assert rows[2].reason == "lmx train: planted failure"


def test_a_swept_key_that_is_called_as_a_column_keeps_its_whole_name():
    assert short_key("fault.step", ["fault.step", "trainer.seed"]) == "fault.step"
    assert short_key("trainer.seed", ["fault.step", "trainer.seed"]) == "seed"
    assert short_key("a.seed", ["a.seed", "trainer.seed"]) == "a.seed"
