"""What Muon holds and sends on a mesh, by hand for one matrix."""

from __future__ import annotations

import pytest

from lmx.config.compose import load
from lmx.params import Init, Param
from lmx.review.orthogonal import held, sent
from lmx.run.config import TrainConfig

WIDE = Param((2, 64, 256), ("layers", "embed", "ffn"), Init("zeros"), ("embed",))
TALL = Param((2, 256, 64), ("layers", "ffn", "embed"), Init("zeros"), ("ffn",))
SIZES = {"data": 2, "fsdp": 4}
STEPS, WHOLE, SQUARES = 5, 2 * 64 * 256, 2 * 64 * 64


def optimizer(name: str):
    return load("train", [f"optimizer={name}"], schema=TrainConfig).config.optimizer


def test_other_rules_are_elementwise():
    adamw = optimizer("adamw")
    assert held(adamw, {"w": WIDE}, {"embed": "fsdp"}, SIZES) == 0
    assert sent(adamw, {"w": WIDE}, {"embed": "fsdp"}, SIZES) == {}


@pytest.mark.parametrize(("param", "itemsize"), [(WIDE, 2), (TALL, 4)])
def test_a_split_shorter_side_is_gathered_or_summed_in_every_iteration(param, itemsize):
    muon = optimizer("muon")
    assert sent(muon, {"w": param}, {"layers": None, "embed": "fsdp", "ffn": None}, SIZES) == {
        "fsdp": STEPS * 2 * WHOLE * itemsize * 3 / 4
    }
    assert (
        held(muon, {"w": param}, {"layers": None, "embed": "fsdp", "ffn": None}, SIZES)
        == WHOLE * 12 + SQUARES * 10
    )


def test_a_split_longer_side_sends_the_squares_alone_and_holds_a_part():
    muon = optimizer("muon")
    rules = {"layers": None, "embed": None, "ffn": "fsdp"}
    assert sent(muon, {"w": WIDE}, rules, SIZES) == {"fsdp": STEPS * 2 * 4 * SQUARES * 3 / 4}
    assert held(muon, {"w": WIDE}, rules, SIZES) == WHOLE // 4 * 12 + SQUARES * 10


def test_layers_on_devices_of_their_own_send_nothing():
    assert sent(optimizer("muon"), {"w": WIDE}, {"layers": "data", "embed": None, "ffn": None}, SIZES) == {}
