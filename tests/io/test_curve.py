"""Loss curves: drawn from what runs wrote, also from broken and unfinished ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.io.curve import draw_loss, read_curve, smooth


def write_run(folder, steps: int = 60, *, step_time: float = 0.5, tail: str = ""):
    folder.mkdir()
    rows = []
    for step in range(10, 10 * steps + 1, 10):
        row = {
            "step": step,
            "tokens": step * 100,
            "loss": 2 + 5 / step,
            "step_time": step_time if step > 10 else None,
        }
        if step % 100 == 0:
            row["eval/loss"] = 2.1 + 5 / step
        rows.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n" + tail)
    return folder


def pixels(path):
    from matplotlib.image import imread

    return imread(path)


@pytest.mark.parametrize("axis", ["steps", "tokens", "time"])
def test_several_runs_are_drawn_into_one_picture(tmp_path, axis):
    runs = [write_run(tmp_path / name, steps) for name, steps in (("a", 60), ("b", 40), ("c", 3))]
    draw_loss(runs, tmp_path / "loss.png", axis=axis)
    image = pixels(tmp_path / "loss.png")
    assert image.shape[1] > 1000
    assert len(np.unique((image[..., :3] * 15).astype(int).reshape(-1, 3), axis=0)) > 20


def test_positions_are_steps_tokens_and_seconds(tmp_path):
    run = write_run(tmp_path / "a", 3, step_time=0.5)
    at = lambda axis: list(read_curve(run, axis=axis).train[0])
    assert at("steps") == [10, 20, 30]
    assert at("tokens") == [1000, 2000, 3000]
    assert at("time") == [5.0, 10.0, 15.0]
    with pytest.raises(ValueError, match="x=epochs: unknown; steps, tokens, time"):
        at("epochs")


def test_rows_that_are_no_numbers_or_not_whole_are_left_out(tmp_path):
    tail = '{"step": 610, "tokens": 61000, "loss": "NaN", "step_time": 0.5}\n{"step": 620, "lo'
    run = write_run(tmp_path / "a", 60, tail=tail)
    curve = read_curve(run, axis="time")
    assert curve is not None
    assert len(curve.train[1]) == 60
    assert list(curve.held_out[0]) == [50.0, 100.0, 150.0, 200.0, 250.0, 300.0]
    draw_loss([run], tmp_path / "loss.svg")
    assert "evaluation" not in (tmp_path / "loss.svg").read_text()[:200]


def test_a_run_without_a_loss_is_no_picture(tmp_path):
    run = write_run(tmp_path / "a", 0)
    assert read_curve(run, axis="steps") is None
    with pytest.raises(ValueError, match="there is no loss to draw"):
        draw_loss([run], tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()


def test_one_row_alone_is_drawn(tmp_path):
    draw_loss([write_run(tmp_path / "a", 1)], tmp_path / "loss.png", axis="time")
    assert (tmp_path / "loss.png").stat().st_size > 1000


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), st.integers(1, 60))
def test_smoothing_keeps_the_range_and_the_length(values, width):
    soft = smooth(np.array(values), width)
    assert len(soft) == len(values)
    assert soft.min() >= min(values) - 1e-6
    assert soft.max() <= max(values) + 1e-6
    assert np.allclose(smooth(np.full(len(values), 2.0), width), 2.0)
