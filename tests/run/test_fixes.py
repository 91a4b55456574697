"""Changes that may make a program fit: their order, and that none is proposed that cannot be pasted."""

from __future__ import annotations

import pytest

from lmx.review.programs import Memory
from lmx.run.compile import Report
from lmx.run.fixes import changed, changes, find_fix, micro_batches
from tests.support import train_config

GB = 10**9


def config(**more):
    model = {"remat": "none"}
    trainer = {"global_batch_size": 32, "eval_batch_size": 8, **more}
    return train_config({"mesh": "fsdp", "model": model, "trainer": trainer})


def report(needs):
    def one(config):
        peak = needs(config)
        memory = Memory(2 * GB, 0, peak - 2 * GB, 0, peak - 2 * GB)
        needed = peak if peak > 16 * GB else None
        return Report(
            *("train", "v5e:2x2", 1, 4, "TPU v5 lite", {"fsdp": 4}, {"fsdp": "ICI"}),
            *(memory, needed, None, 1.0, 16 * GB, 1.0),
            hash="",
            cached=False,
            computed=(),
        )

    return one


def test_a_change_is_made_without_touching_the_rest():
    before = config()
    after = changed(before, "mesh.rules.embed", "data")
    assert after.mesh.rules["embed"] == "data"
    assert before.mesh.rules["embed"] == "fsdp"
    assert after.model is before.model


def test_micro_batches_leave_every_device_whole_sequences():
    assert micro_batches(config(), {"fsdp": 4}) == [1, 2, 4, 8]
    assert micro_batches(config(accumulation=2), {"fsdp": 4}) == [2, 4, 8]
    assert micro_batches(config(), {"fsdp": 32}) == [1]
    stages = train_config({"mesh": "pipeline", "trainer": {"global_batch_size": 64, "eval_batch_size": 64}})
    assert micro_batches(stages, {"stage": 2, "fsdp": 4}) == [1, 2]  # in 8 parts, of which a device has 4


def test_changes_go_from_the_smallest_on_and_precision_comes_last():
    found = list(changes(config(), {"fsdp": 4}))
    words = [" ".join(c.overrides) for c in found]
    assert words[0] == "model.remat=full"
    assert words[1] == "model.remat=full trainer.accumulation=2"
    assert "param_dtype" in words[-1]
    numerics = [c.numerics for c in found]
    assert numerics == sorted(numerics)
    assert found[1].config.trainer.accumulation == 2
    assert found[1].config.model.remat == "full"


@pytest.mark.parametrize(
    ("needs", "fix"),
    [
        (lambda c: (30 if c.model.remat == "none" else 10) * GB, ("model.remat=full",)),
        (
            lambda c: (60 if c.model.remat == "none" else 40 // c.trainer.accumulation) * GB,
            ("model.remat=full", "trainer.accumulation=4"),
        ),
        (lambda c: 99 * GB, None),
    ],
)
def test_the_first_change_that_fits_is_found(needs, fix):
    one = report(needs)
    said = []
    found = find_fix(one(config()), config(), one, say=said.append)
    assert (found.overrides if found else None) == fix
    assert said


def test_micro_batches_that_cannot_be_small_enough_are_not_compiled():
    """2 GB of arguments, and 62 GB that halve with each accumulation: 16 GB are enough for an eighth, not a quarter."""
    one = report(lambda c: (2 + 62 // c.trainer.accumulation) * GB)
    said = []
    found = find_fix(one(config()), config(), one, say=said.append)
    assert found is not None
    # Smaller micro-batches are enough: nothing need be computed again.
    assert found.overrides == ("trainer.accumulation=8",)
    both = "trying model.remat=full trainer.accumulation=8"
    assert said == ["trying model.remat=full", both, "trying trainer.accumulation=8"]


def test_other_programs_are_given_smaller_batches():
    def one(config):
        found = report(lambda c: c.trainer.eval_batch_size * GB)(config)
        return found._replace(program="eval")

    large = config(eval_batch_size=48)
    said = []
    found = find_fix(one(large), large, one, say=said.append)
    assert found is not None
    assert (found.overrides, found.numerics) == (("trainer.eval_batch_size=12",), False)
    assert said == ["trying trainer.eval_batch_size=24", "trying trainer.eval_batch_size=12"]
    assert find_fix(one(large), large, lambda c: one(large), say=said.append) is None
