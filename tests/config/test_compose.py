from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from lmx.config.compose import Composer, load
from lmx.config.errors import ConfigError
from lmx.config.plain_tree import read_tree, tree_hash
from tests.config.example.schema import AdamW, Decoder, Run, Sgd

CONF = Path(__file__).parent / "example" / "conf"
ROOT = Path(__file__).parents[2]


def compose(*overrides: str, **places):
    return load("run", list(overrides), schema=Run, conf=CONF, **places)


def refused(*overrides: str, **places):
    with pytest.raises(ConfigError) as caught:
        compose(*overrides, **places)
    return caught.value.problems


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_object_is_typed_and_the_tree_is_plain():
    composed = compose("model=big", "optimizer=sgd", "steps=1.5k", "duration=2h", "+data.weights.books=3")
    assert isinstance(composed.config.model, Decoder)
    assert isinstance(composed.config.optimizer, Sgd)
    assert composed.config.model.head_dim == 64
    assert composed.tree["model"]["_target_"] == "tests.config.example.schema.Decoder"
    assert composed.tree["steps"] == 1500
    assert composed.tree["duration"] == 7200.0
    assert composed.tree["data"]["weights"] == {"web": 1.0, "code": 2.0, "books": 3.0}
    assert composed.tree["name"] == "big"
    assert composed.overrides == [
        "model=big",
        "optimizer=sgd",
        "steps=1.5k",
        "duration=2h",
        "+data.weights.books=3",
    ]


def test_hydras_own_overrides_are_no_part_of_the_job():
    composed = compose("hydra.run.dir=somewhere", "steps=3", "logging.every=1")
    assert composed.overrides == ["steps=3", "logging.every=1"]
    assert "hydra" not in composed.tree


def test_the_experiment_wins_over_the_primary_and_the_command_line_over_both():
    assert compose("experiment=long").config.steps == 20_000
    assert compose("experiment=long").config.model.n_layers == 12
    assert compose("experiment=long", "steps=30").config.steps == 30
    assert isinstance(compose("experiment=long").config.optimizer, AdamW)


def test_the_experiment_of_a_command_can_be_left_out():
    from lmx.run.bench_config import BenchTrain

    assert load("bench train", schema=BenchTrain).config.name == "bench_cpu"
    assert load("bench train", ["~experiment", "model=tiny"], schema=BenchTrain).config.name == "tiny"


def test_yaml_reads_back_unchanged(tmp_path):
    composed = compose("model=big", "data.path='a: b # c'", "optimizer.learning_rate=1e-5", 'name="007"')
    path = tmp_path / "config.yaml"
    path.write_text(composed.yaml())
    assert read_tree(path) == composed.tree
    assert yaml.safe_load(path.read_text()) == composed.tree
    assert Run.model_validate(read_tree(path)) == composed.config


def test_the_hash_ignores_spelling_and_bookkeeping_and_nothing_else():
    base = compose().hash
    assert compose("steps=1e2").hash == base
    assert compose("name=other", "logging.every=5").hash == base
    assert compose("data.workers=2").hash != base
    assert compose("model.dropout=0.1").hash != base
    assert tree_hash(dict(reversed(compose().tree.items())), Run) == base


def test_origins_name_file_and_line_or_the_override():
    origins = compose("experiment=long", "steps=30", "+data.weights.books=3").origins
    example = "tests/config/example/conf"
    assert origins["steps"] == "command line: steps=30"
    assert origins["data.weights.books"] == "command line: +data.weights.books=3"
    assert origins["optimizer.learning_rate"] == f"{example}/experiment/long.yaml:9"
    assert origins["optimizer.weight_decay"] == f"{example}/optimizer/adamw.yaml:5"
    assert origins["model.n_layers"] == f"{example}/model/big.yaml:6"
    assert origins["model.dropout"] == f"{example}/model/small.yaml:7"
    assert origins["name"] == f"{example}/run.yaml:11"


def test_every_key_of_the_tree_has_an_origin_that_exists():
    from lmx.config.schema import flatten

    composed = compose("experiment=long")
    for key in flatten(composed.tree):
        place, _, line = composed.origins[key].rpartition(":")
        text = Path(place).read_text().splitlines()[int(line) - 1]
        assert key.rpartition(".")[2] in text


def test_everything_wrong_is_reported_at_once():
    problems = refused(
        "model=bgi", "model.n_layer=3", "steps=x", "+zzz=1", "optimizer.betas=[2,0.9]", "a b", "data=ask"
    )
    assert {p.key for p in problems} == {
        "a b", "model", "model.n_layer", "steps", "zzz", "optimizer.betas.0", "data.path",
    }  # fmt: skip
    assert all(problem.origin for problem in problems)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_an_unknown_key_is_refused_however_it_is_written(plus):
    (problem,) = refused(f"{plus}unknown=1")
    assert problem.kind == "unknown_key"
    assert "+" not in (problem.fix or "")


def test_keys_that_no_file_sets_are_set_with_and_without_plus():
    assert compose("+data.weights.books=3").config.data.weights["books"] == 3
    assert compose("data.weights.books=3").config.data.weights["books"] == 3


def test_a_key_is_removed_where_the_schema_allows_it():
    assert compose("~data.weights.web").config.data.weights == {"code": 2.0}
    (problem,) = refused("~steps")
    assert problem.message == "is required, and cannot be removed"


def test_contradictions_are_asked_for_when_the_fields_are_sound_only():
    assert [p.kind for p in refused("logging.every=200")] == ["contradiction"]
    assert [p.key for p in refused("logging.every=200", "model.act=x")] == ["model.act"]


def test_a_folder_of_ones_own(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# mine\ndefaults:\n  - big\n  - _self_\nn_layers: 3\n")
    assert compose("model=mine", config_dir=tmp_path).config.model.n_layers == 3
    searched = compose(f"hydra.searchpath=[file://{tmp_path}]", "model=mine")
    assert searched.config.model.d_model == 768
    assert searched.origins["model.n_layers"] == f"{tmp_path}/model/mine.yaml:5"


def test_a_problem_that_follows_from_another_is_not_reported():
    assert [p.key for p in refused("model.n_heads=four")] == ["model.n_heads"]
    assert [p.key for p in refused("model.d_model=${nothing}")] == ["model.d_model"]
    assert [p.key for p in refused("steps=0", "duration=${steps}")] == ["steps"]


def test_what_cannot_be_computed_names_what_went_into_it():
    (problem,) = refused("model.n_heads=5")
    assert problem.key == "model.head_dim"
    assert "model.n_heads = 5 (command line: model.n_heads=5)" in problem.message
    assert problem.fix == "model.n_heads=4"


def test_a_composer_answers_the_same_each_time():
    composer = Composer("run", Run, conf=CONF)
    first = composer.check(["model=big"])[0]
    composer.check(["model=rnn", "steps=x"])
    again = composer.check(["model=big"])[0]
    assert first is not None
    assert again is not None
    assert first.tree == again.tree
    assert OmegaConf.create(first.tree) == OmegaConf.create(compose("model=big").tree)
