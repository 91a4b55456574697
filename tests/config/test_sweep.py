from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from lmx.config.compose import Composer
from lmx.config.sweep import check_sweep
from tests.config.example.schema import Run

CONF = Path(__file__).parent / "example" / "conf"


def sweep(*overrides: str):
    return check_sweep(Composer("run", Run, conf=CONF, overrides=overrides), list(overrides))


def test_every_point_is_composed_and_they_are_hydras_own():
    overrides = ["model=small,big", "steps=20,30", "optimizer.learning_rate=0.1", "hydra.job.chdir=false"]
    found = sweep(*overrides)
    assert not found.problems
    assert found.complete
    parser = Composer("run", Run, conf=CONF).tree.parser
    (expected,) = BasicSweeper.split_arguments(parser.parse_overrides(overrides[:3]), None)
    assert [point.overrides for point in found.points] == expected
    assert [(p.composed.config.name, p.composed.config.steps) for p in found.points] == [
        ("small", 20), ("small", 30), ("big", 20), ("big", 30),
    ]  # fmt: skip


def test_the_problems_of_all_points_are_named_once_each():
    found = sweep("steps=20,5,-1", "model.act=gelu,foo", "model.n_heads=4,5")
    assert sorted((p.key, p.message.rpartition(" (in")[2]) for p in found.problems) == [
        ("logging.every", " 1 of 12 points)"),
        ("model.act", " 6 of 12 points)"),
        ("model.head_dim", " 6 of 12 points)"),
        ("steps", " 4 of 12 points)"),
    ]


def test_values_that_are_wrong_alike_are_all_named():
    assert [(p.key, p.value) for p in sweep("steps=0,-1").problems] == [("steps", 0), ("steps", -1)]


def test_params_of_the_sweeper_in_the_configuration_count(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      steps: 20,-3\n"
    (tmp_path / "experiment" / "swept.yaml").write_text(text)
    overrides = ["experiment=swept"]
    composer = Composer("run", Run, conf=CONF, config_dir=tmp_path, overrides=overrides)
    found = check_sweep(composer, overrides)
    assert [p.key for p in found.problems] == ["steps"]


def test_intervals_are_tried_at_both_ends():
    found = sweep("optimizer.learning_rate=interval(-1,1)")
    assert [p.key for p in found.problems] == ["optimizer.learning_rate"]
    assert not sweep("optimizer.learning_rate=interval(0.1,1)").problems


def test_a_glob_means_the_options_of_the_group():
    found = sweep("model=glob(*, exclude=rnn)")
    assert [p.composed.config.name for p in found.points] == ["big", "small"]
