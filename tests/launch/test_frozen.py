"""`lmx train --frozen`: the file is the whole request."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from lmx.cli.commands import command
from lmx.cli.frozen import load_frozen, run_frozen
from lmx.config.compose import load
from lmx.config.errors import ConfigError, RequestError
from lmx.run.config import TrainConfig
from tests.support import ROOT

TRAIN = command("train")


@pytest.fixture
def frozen(tmp_path):
    composed = load("train", ["model.n_layers=1", "trainer.steps=7"], schema=TrainConfig)
    path = tmp_path / "config.yaml"
    path.write_text(composed.yaml())
    return composed, path


def test_it_is_the_configuration_that_was_frozen(frozen):
    composed, path = frozen
    again = load_frozen(path, TRAIN)
    assert again.tree == composed.tree
    assert again.hash == composed.hash
    assert again.config == composed.config


def test_problems_name_the_line(frozen):
    _, path = frozen
    tree = yaml.safe_load(path.read_text())
    tree["trainer"]["stepz"] = 3
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.raises(ConfigError) as error:
        load_frozen(path, TRAIN)
    problem = error.value.problems[0]
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if "stepz" in text)
    assert problem.key == "trainer.stepz"
    assert str(problem.origin).endswith(f"config.yaml:{line}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frozen"], "needs the file"),
        (["--frozen", "x.yaml"], "needs the run's directory"),
        (
            ["--frozen", "x.yaml", "hydra.run.dir=r", "trainer.steps=3"],
            "trainer.steps=3: a frozen configuration",
        ),
        (["--frozen", "none.yaml", "hydra.run.dir=r"], "cannot be read"),
    ],
)
def test_wrong_requests(arguments, message):
    with pytest.raises(RequestError, match=message):
        run_frozen(TRAIN, arguments)


def test_only_training_is_frozen():
    with pytest.raises(RequestError, match="belongs to lmx train"):
        run_frozen(command("eval"), ["--frozen", "x.yaml", "hydra.run.dir=r"])


def test_launching_imports_no_jax():
    program = (
        "import sys, lmx.cli.launch, lmx.launch, lmx.launch.drive, lmx.launch.look, lmx.launch.dry, lmx.launch.ssh, "
        "lmx.run.launch_config; print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"
