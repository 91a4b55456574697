"""Every option of every group builds, and every experiment composes and wins."""

from __future__ import annotations

import gzip
import json

import jax
import pytest
import yaml

from lmx import params as param_tree
from lmx.config.compose import Composer, load
from lmx.config.types import parse_whole as whole
from lmx.run.build import build, build_model
from lmx.run.config import TrainConfig
from lmx.sharding import make_mesh
from tests.support import CONF

GROUPS = [p.name for p in sorted(CONF.iterdir()) if p.is_dir() and p.name != "hydra"]
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("[!_]*.yaml"))]
EXPERIMENTS = [name for group, name in OPTIONS if group == "experiment"]


def compose(*overrides):
    return load("train", list(overrides), schema=TrainConfig)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What the options that read files are given."""
    folder = tmp_path_factory.mktemp("files")
    text = "".join(f"line {i}: the quick brown fox jumps over the lazy dog\n" for i in range(2000))
    (folder / "text.txt").write_text(text)
    with gzip.open(folder / "more.txt.gz", "wt") as stream:
        stream.write(text)
    (folder / "text.jsonl").write_text(
        "".join(json.dumps({"text": text[i : i + 500]}) + "\n" for i in range(0, len(text), 500))
    )
    return folder


def needs(group, option, files):
    """Overrides without which an option has no file to read."""
    paths = {("data", "text"): "text.txt", ("data", "jsonl"): "text.jsonl"}
    return [f"{group}.path={files / paths[group, option]}"] if (group, option) in paths else []


@pytest.mark.parametrize("name", [name for g, name in OPTIONS if g == "model" and name != "pretrained"])
def test_models_build(name):
    config = compose(f"model={name}", "trainer.sequence_length=64").config
    model, _ = build_model(config, make_mesh(config.mesh), "float32")
    shapes = jax.eval_shape(
        lambda p: model.forward(p, jax.numpy.zeros((1, 8), "int32")).hidden,
        param_tree.abstract(model.specs, jax.numpy.float32),
    )
    assert shapes.shape == (1, 8, config.model.d_model)


@pytest.mark.parametrize(
    ("group", "name"),
    [(g, n) for g, n in OPTIONS if g in ("optimizer", "schedule", "mesh", "kernels", "trainer")],
)
def test_parts_build(group, name):
    """The whole training state can be laid out (one device: meshes of several are left out)."""
    overrides = [f"{group}={name}", "model.d_model=48", "model.n_heads=3"]
    if name == "fsdp_tp":
        overrides.append("mesh.axes.tensor=1")
    config = compose(*overrides).config
    if any(size not in (1, "auto") for size in config.mesh.axes.values()):
        pytest.skip("a mesh of several devices: those are compared by lmx verify mesh")
    parts = build(config, total_steps=100)
    assert param_tree.count(parts.model.specs) > 0
    assert jax.tree.structure(parts.abstract_state) == jax.tree.structure(parts.state_shardings)


@pytest.mark.parametrize("name", ["text", "jsonl", "stdlib", "synthetic", "mixture"])
def test_data_builds(name, files):
    config = compose(f"data={name}", *needs("data", name, files)).config
    dataset = config.data.build(config.tokenizer.build(), sequence_length=32, seed=0)
    row = dataset.train[0]
    assert row.tokens.shape == row.targets.shape == (32,)
    assert len(dataset.eval) > 0


def as_written(mine, found):
    """A value of a YAML as the configuration has it: `500k` and `40%` are numbers."""
    if isinstance(mine, str) and isinstance(found, int):
        return whole(mine)
    if isinstance(mine, str) and isinstance(found, float) and mine.endswith("%"):
        return float(mine[:-1]) / 100
    return type(found)(mine)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_win(name):
    """Every value that an experiment sets is the value of the composed configuration."""
    path = CONF / "experiment" / f"{name}.yaml"
    assert path.read_text(encoding="utf-8").startswith("# @package _global_\n")
    stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    overrides = [f"experiment={name}"]  # files are the user's to name: `???` stays where they go
    composed, problems = Composer("train", TrainConfig, overrides=overrides, elsewhere=True).check(overrides)
    assert composed is not None, problems

    def check(mine, found, key):
        if isinstance(mine, dict):
            for k, v in mine.items():
                check(v, found[k], f"{key}.{k}")
        elif not (isinstance(mine, str) and "${" in mine):
            assert as_written(mine, found) == found if found is not None else mine is None, key

    for entry in stated.pop("defaults", []):
        for group, option in entry.items() if isinstance(entry, dict) else []:
            group = group.removeprefix("override /")
            assert (CONF / group / f"{option}.yaml").is_file()
    check(stated, composed.tree, "")
