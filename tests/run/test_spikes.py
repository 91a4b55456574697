"""Spikes in whole runs, staged by `fault=loss_spike`: left out, gone back on, and the same after an interruption."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from lmx.config.compose import Composer
from lmx.config.resume import load_resumed
from lmx.io.ledger import attempts_of, goodput_of, read_ledger, seen_by
from lmx.review import life
from lmx.run import spike
from lmx.run.config import TrainConfig
from lmx.run.fork import fork
from lmx.run.same_run import TIMES, load_arrays
from lmx.run.train import train
from lmx.train.loop import Diverged

SMALL = [
    *("model.n_layers=1", "model.d_model=32", "model.n_heads=2", "optimizer=adamw", "logging=quiet"),
    *("optimizer.learning_rate=1e-2", "schedule=constant", "schedule.warmup=0", "checkpoint.every=10"),
    *(
        "trainer.steps=60",
        "trainer.sequence_length=32",
        "trainer.global_batch_size=16",
        "trainer.log_every=10",
    ),
    *("trainer.eval_every=null", "trainer.eval_sequences=2", "trainer.eval_batch_size=2"),
    *("trainer.sample.tokens=0", "trainer.compile_cache=null", "logging.tensorboard=false"),
    *("spikes.loss_deviations=10", "spikes.decay=0.8", "spikes.warmup_steps=20"),
    *(
        "data=synthetic",
        "fault=loss_spike",
        "fault.step=43",
        "fault.steps=3",
    ),
]


def compose(*overrides):
    lines = [*SMALL, *overrides]
    found, problems = Composer("train", TrainConfig, overrides=lines).check(lines)
    return found, problems


def run_in(folder, *overrides):
    found, problems = compose(*overrides)
    assert not problems
    train(found, folder, resume=False)
    return folder


def rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: {k: v for k, v in row.items() if k not in TIMES} for row in lines}


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def rewound(tmp_path_factory):
    """A run that went back."""
    return run_in(tmp_path_factory.mktemp("runs") / "rewound", "spikes=rewind", "spikes.patience=3")


def test_the_updates_of_spikes_are_left_out_and_noted(tmp_path):
    run = run_in(tmp_path / "run", "spikes=skip")
    assert (summary(run)["skipped"], summary(run)["spikes"], summary(run)["rewinds"]) == (3, 3, 0)
    noted = {step: row["spike"] for step, row in rows(run).items() if "spike" in row}
    assert list(noted) == [43, 44, 45]
    assert noted[43] == {"first_batch": 43, "last_batch": 43, "first_sequence": 672, "last_sequence": 687}
    (attempt,) = attempts_of(read_ledger(run / "ledger.jsonl").objects)
    assert [line["first_batch"] for line in attempt.spikes] == [43, 44, 45]
    assert "spike at steps 43 to 45" in life.text(life.of(run))
    assert "its update is left out; batch 43, sequences 672 to 687" in (run / "log.txt").read_text()
    with pytest.raises(Diverged, match=r"2 updates in a row.*spikes\.max_in_a_row=2"):
        run_in(tmp_path / "other", "spikes=skip", "spikes.max_in_a_row=2")


def test_a_run_goes_back_to_before_the_spikes_and_leaves_their_data_out(rewound):
    assert (summary(rewound)["spikes"], summary(rewound)["rewinds"]) == (0, 1)
    found = rows(rewound)
    assert list(found) == sorted(found)
    assert not any("spike" in row for row in found.values())
    told = {"number": 1, "at": 45, "to": 40, "first_spike": 43, "first_batch": 41, "last_batch": 45}
    assert found[41]["rewound"] == {**told, "first_sequence": 640, "last_sequence": 719}
    cut = [json.loads(line) for line in (rewound / "metrics.cut.jsonl").read_text().splitlines()]
    assert [row["step"] for row in cut] == [43, 44, 45]
    first, second = attempts_of(read_ledger(rewound / "ledger.jsonl").objects)
    assert (first.status, first.step, second.start["step"], second.step) == ("rewound", 45, 40, 60)
    assert second.went_back == found[41]["rewound"]
    goodput = goodput_of([first, second])
    assert goodput is not None
    assert (goodput.lost, goodput.restarts) == (5, 0)
    assert "went back from step 45 to 40" in life.text(life.of(rewound))
    manifest = json.loads((rewound / "checkpoints" / "60" / "lmx.json").read_text())
    assert manifest["meta"]["left_out"] == [[40, 41, 45, 1, 45, 43]]


def test_a_run_that_ends_after_it_went_back_goes_on_as_if_it_had_not(rewound, tmp_path):
    """Ended before any checkpoint knows of the data that are left out: only the ledger does."""
    run = run_in(
        tmp_path / "run", "spikes=rewind", "spikes.patience=3", "trainer.steps=47", "checkpoint.final=false"
    )
    assert sorted(p.name for p in (run / "checkpoints").glob("[0-9]*")) == ["30", "40"]
    lines = ["trainer.steps=60", "checkpoint.final=true"]
    train(load_resumed(run, lines, TrainConfig, extendable=["trainer.steps"]), run, resume=True)
    assert rows(run) == rows(rewound)
    assert seen_by(run) == seen_by(rewound)
    left, right = (load_arrays(folder / "checkpoints" / "50") for folder in (run, rewound))
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_a_step_after_the_window_is_looked_into_with_its_own_data(rewound):
    found = spike.look(rewound, 50, window=2, rows=1, tokens=1, changes=[])
    assert found.loss == found.recorded == rows(rewound)[50]["loss"]
    assert 54 * 16 <= found.rows[0].example < 55 * 16


def test_a_run_goes_back_only_so_often(tmp_path):
    """The spikes are longer than a window: the next stretch of data has them too."""
    more = ["spikes=rewind", "spikes.patience=2", "spikes.max_rewinds=1", "fault.steps=12"]
    with pytest.raises(Diverged, match=r"went back 1 times already \(spikes.max_rewinds=1\)"):
        run_in(tmp_path / "run", *more)
    assert summary(tmp_path / "run")["status"] == "failed"


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path):
    with pytest.raises(Diverged, match="no checkpoint from before them"):
        run_in(tmp_path / "run", "spikes=rewind", "spikes.patience=2", "checkpoint.every=50")


@pytest.mark.slow
def test_a_fork_can_begin_to_look_for_spikes_and_cease(rewound, tmp_path):
    """The statistics are a part of the state, and a checkpoint that lacks them is none the worse."""
    for change, has in (("~spikes", False), ("spikes=skip", True)):
        source, to = (rewound, tmp_path / "without") if not has else (tmp_path / "without", tmp_path / "with")
        at = 50 if not has else 60
        lines = [change, "~fault", "trainer.steps=60" if not has else "trainer.steps=62"]
        fork(source, at, lines, to)
        train(load_resumed(to, [], TrainConfig), to, resume=True)
        last = load_arrays(to / "checkpoints" / ("60" if not has else "62"))
        assert any(name.startswith("spikes.") for name in last) == has


@pytest.mark.parametrize(
    ("line", "key", "fix"),
    [
        ("checkpoint.every=null", "checkpoint.every", "checkpoint.every=100"),
        ("checkpoint.every=2", "checkpoint.keep_last", "checkpoint.keep_last=4"),
    ],
)
def test_going_back_needs_checkpoints(line, key, fix):
    found, problems = compose("spikes=rewind", "spikes.patience=5", line)
    assert found is None
    assert [(p.key, p.fix) for p in problems] == [(key, fix)]


def test_states_are_as_before_where_nobody_looks():
    from lmx.run.build import build

    found, _ = compose("~spikes.loss_deviations", "spikes=null")
    names = (
        {} if found is None else jax.tree.leaves_with_path(build(found.config, total_steps=9).abstract_state)
    )
    assert not any("spike" in jax.tree_util.keystr(path) for path, _ in names)
