"""Which attention kernel a layer gets, and what is said where it cannot have the one asked for."""

from __future__ import annotations

import pytest

from lmx.layers.choice import Needs, automatic, chosen

PLAIN = Needs("bfloat16", 128, 128, softcap=False, sinks=False)


@pytest.mark.parametrize(
    ("platform", "n_devices", "needs", "expected"),
    [
        ("cpu", 1, PLAIN, "cpu"),
        ("cpu", 8, PLAIN, "blockwise"),
        ("tpu", 1, PLAIN, "splash"),
        ("tpu", 256, PLAIN._replace(softcap=True, sinks=True, value_dim=64), "splash"),
        ("gpu", 8, PLAIN, "cudnn"),
        ("gpu", 8, PLAIN._replace(dtype="float32"), "blockwise"),
        ("gpu", 8, PLAIN._replace(softcap=True), "blockwise"),
        ("gpu", 8, PLAIN._replace(sinks=True), "blockwise"),
        ("gpu", 8, PLAIN._replace(value_dim=64), "blockwise"),
        ("gpu", 8, PLAIN._replace(head_dim=260, value_dim=260), "blockwise"),
    ],
)
def test_auto(platform, n_devices, needs, expected):
    assert automatic(platform, n_devices, needs) == expected
    assert chosen("auto", platform, n_devices, needs) == expected
    assert chosen(expected, platform, n_devices, needs) == expected


@pytest.mark.parametrize(
    ("asked", "platform", "needs", "words"),
    [
        ("splash", "cpu", PLAIN, ("splash", "tpu only", "cpu", "kernels.attention=cpu")),
        ("cudnn", "tpu", PLAIN, ("cudnn", "gpu only", "tpu", "kernels.attention=splash")),
        ("cudnn", "gpu", PLAIN._replace(dtype="float32"), ("cudnn", "float32", "trainer.compute_dtype")),
        ("cudnn", "gpu", PLAIN._replace(softcap=True), ("cudnn", "model.attention.softcap", "blockwise")),
        ("cudnn", "gpu", PLAIN._replace(sinks=True), ("cudnn", "model.attention.sinks")),
    ],
)
def test_one_error_names_both(asked, platform, needs, words):
    with pytest.raises(ValueError, match=r"kernels\.attention=") as caught:
        chosen(asked, platform, 1, needs)
    for word in words:
        assert word in str(caught.value)
