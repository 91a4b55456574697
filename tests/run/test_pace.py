"""A length in wall-clock time alone becomes a number of steps, which stands in the run's configuration."""

from __future__ import annotations

import json

import pytest
import yaml

from lmx.config.compose import load
from lmx.run.config import TrainConfig
from lmx.run.length import total_steps
from lmx.run.pace import SHARE, steps_within
from tests.run.test_train import SMALL, lmx, rows, text  # noqa: F401

SHORT = [word for word in SMALL if not word.startswith(("trainer.steps", "checkpoint"))]


@pytest.mark.parametrize(
    ("seconds", "step_time", "evaluation", "every", "expected"),
    [
        (100, 1.0, 0.0, None, 95),
        (100, 1.0, 10.0, None, 85),  # one evaluation, at the end
        (100, 0.5, 5.0, 10, 90),  # and one every 10 steps
        (1, 60.0, 5.0, 10, 1),
    ],
)
def test_steps_that_fit(seconds, step_time, evaluation, every, expected):
    steps = steps_within(seconds, step_time, evaluation, every)
    assert steps == expected
    if steps > 1:
        taken = steps * step_time + evaluation + (steps / every if every else 0) * evaluation
        assert taken <= SHARE * seconds < taken + step_time + evaluation


def test_a_run_longer_than_steps_can_be_counted_is_refused():
    trainer = load("train", ["trainer.steps=1e30"], schema=TrainConfig).config.trainer
    with pytest.raises(ValueError, match="2,147,483,647"):
        total_steps(trainer, examples_per_epoch=1)


def test_the_clock_alone_gives_a_run_its_length(text, tmp_path):  # noqa: F811
    first, again = tmp_path / "first", tmp_path / "again"
    files = [f"data.path={text}", "checkpoint=none"]
    alone = ["trainer.steps=null", "trainer.duration=4s", "schedule=cosine"]
    lmx(*SHORT, *files, *alone, f"hydra.run.dir={first}")
    trainer = yaml.safe_load((first / "config.yaml").read_text())["trainer"]
    done = json.loads((first / "summary.json").read_text())
    assert done["status"] == "done"
    assert 1 <= done["steps"] <= trainer["steps"]
    if done["steps"] < trainer["steps"]:  # a machine that became busier: the clock is the limit
        return
    lmx(*SHORT, *files, f"trainer.steps={trainer['steps']}", "schedule=cosine", f"hydra.run.dir={again}")
    assert rows(first) == rows(again)
