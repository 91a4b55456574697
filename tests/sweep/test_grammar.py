import pytest

from lmx.config.errors import ConfigError
from lmx.sweep.command import swept
from lmx.sweep.grammar import Grammar
from tests.support import read_option


def blocks(**parts):
    given = {"every": [], "zip": [], "chain": [], **parts}
    return Grammar(**given).blocks(lambda group: ["_base", "adamw", "muon"] if group == "optimizer" else [])


def test_lists_of_a_zip_go_in_step_and_parts_are_multiplied():
    found = blocks(zip=[{"model.d_model": [64, 128], "a.b": ["x y", None]}], every=["optimizer"])
    assert found == [
        ["model.d_model=64", 'a.b="x y"', "optimizer=adamw"],
        ["model.d_model=64", 'a.b="x y"', "optimizer=muon"],
        ["model.d_model=128", "a.b=null", "optimizer=adamw"],
        ["model.d_model=128", "a.b=null", "optimizer=muon"],
    ]


def test_every_point_of_the_speedrun_holds():
    grammar = Grammar.model_validate({k: v for k, v in read_option("points", "speedrun").items()})
    found = swept(grammar, [], elsewhere=True)
    assert len({point.composed.hash for point in found}) == len(found) == 9


def test_a_chain_is_one_sweep_after_the_other():
    assert blocks(chain=[["model=tiny", "trainer.seed=0,1"], ["model=nano"]]) == [
        ["model=tiny", "trainer.seed=0,1"],
        ["model=nano"],
    ]
    assert blocks() == [[]]


def test_what_cannot_be_is_named():
    uneven = Grammar(every=[], chain=[], zip=[{"a": [1, 2], "b": [1]}])
    assert "a has 2, b has 1" in uneven.problems()[0][1]
    wrong = Grammar(every=["optimiser", "nothing"], chain=[], zip=[])
    with pytest.raises(ConfigError) as error:
        swept(wrong, ["model.n_layers=x"])
    found = {problem.message: problem.fix for problem in error.value.problems}
    assert found["optimiser is no group of options"] == "points.every=[optimizer]"
    assert found["nothing is no group of options"] is None
    assert "model.n_layers" in [problem.key for problem in error.value.problems]


def test_a_key_that_the_command_line_sets_too_is_refused():
    grammar = Grammar(every=[], chain=[["trainer.steps=5"]], zip=[{"model.n_heads": [1, 2]}])
    with pytest.raises(ConfigError) as error:
        swept(grammar, ["model.n_heads=4", "trainer.seed=0,1"])
    assert [(p.key, p.origin) for p in error.value.problems] == [
        ("model.n_heads", "command line: model.n_heads=4")
    ]
    assert len(swept(grammar, ["trainer.seed=0,1"])) == 4


def test_the_options_that_are_shipped_are_points_that_hold():
    from lmx.sweep.command import swept

    tree = read_option("points", "widths")
    tree.pop("_target_")
    found = swept(Grammar(**tree), ["trainer.seed=0,1"])
    widths = [(p.composed.tree["model"]["d_model"], p.composed.tree["trainer"]["seed"]) for p in found]
    assert widths == [(64, 0), (64, 1), (128, 0), (128, 1), (256, 0), (256, 1)]
