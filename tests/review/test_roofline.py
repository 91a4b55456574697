"""The roofline of a training step: formulas against cases that can be worked out by hand."""

from __future__ import annotations

import pytest

from lmx.chips import chip_named
from lmx.models.flops import decoder_flops
from lmx.models.specs import decoder_specs
from lmx.params import count
from lmx.review.roofline import Split, times, work_of
from tests.support import model_config


def work(option, length=4096):
    config = model_config(option)
    return work_of(config, decoder_specs(config), decoder_flops(config, length).causal)


def chip(name):
    found = chip_named(name)
    assert found is not None
    return found


def test_the_work_of_a_dense_model():
    found = work("llama3_8b")
    assert found.dense == 8_030_261_248
    assert found.experts == 0
    # query 4096 -> 4096, key and value 4096 -> 1024, out 4096 -> 4096, three of the MLP between 4096 and 14336
    assert found.streams * 4096 == (2 * 4096) * 2 + 2 * (4096 + 1024) + 3 * (4096 + 14336)


def test_the_work_of_experts():
    config = model_config("mixtral_8x7b")
    found = work("mixtral_8x7b")
    assert found.parameters == count(decoder_specs(config))
    assert found.experts == 32 * 8 * 3 * 4096 * 14336
    assert (found.moe_layers, found.top_k) == (32, 2)


def test_one_device_only_computes():
    found = times(work("llama3_8b"), chip("v5p"), Split(), tokens=16384)
    assert found.ici == found.dcn == 0
    assert found.compute == pytest.approx(work("llama3_8b").flops * 16384 * 4 / 3 / 459e12)
    assert found.state_bytes == 16 * 8_030_261_248


def test_sharded_parameters_are_gathered_twice_and_gradients_scattered_once():
    split, v5p = Split(fsdp=8), chip("v5p")
    found = times(work("llama3_8b"), v5p, split, tokens=8 * 16384)
    assert found.ici == pytest.approx(7 / 8 * (2 + 2 + 4) * 8_030_261_248 / (2 * 100e9 * 3))
    alone = times(work("llama3_8b"), v5p, Split(), tokens=16384)
    assert found.compute == pytest.approx(alone.compute)


def test_more_devices_and_the_same_batch_only_shorten_the_arithmetic():
    few = times(work("llama3_70b"), chip("v5p"), Split(fsdp=64), tokens=2**19)
    many = times(work("llama3_70b"), chip("v5p"), Split(fsdp=1024), tokens=2**19)
    assert many.compute == pytest.approx(few.compute / 16)
    assert many.ici > few.ici
    assert (few.bound, many.bound) == ("compute", "ICI")


def test_slices_speak_over_the_network():
    found = times(work("llama3_8b"), chip("v6e"), Split(data=2, fsdp=256), tokens=2**21)
    assert found.dcn == pytest.approx(2 / 2 * 4 * 8_030_261_248 / 256 / 12.5e9)
    assert times(work("llama3_8b"), chip("v6e"), Split(fsdp=256), tokens=2**21).dcn == 0


def test_experts_on_devices_of_their_own_are_not_gathered():
    mixtral, v5p = work("mixtral_8x7b"), chip("v5p")
    gathered = times(mixtral, v5p, Split(fsdp=64), tokens=2**18)
    apart = times(mixtral, v5p, Split(fsdp=64, expert=8), tokens=2**18)
    assert apart.ici < gathered.ici
    assert apart.state_bytes == gathered.state_bytes


def test_tensor_parallelism_sends_activations():
    small = times(work("llama3_8b"), chip("v5p"), Split(fsdp=8, tensor=4), tokens=2**14)
    large = times(work("llama3_8b"), chip("v5p"), Split(fsdp=8, tensor=4), tokens=2**16)
    assert large.ici > small.ici


def test_what_is_least_and_most():
    found = times(work("llama3_8b"), chip("v5e"), Split(fsdp=16), tokens=2**16)
    assert found.least == max(found.compute, found.hbm, found.ici, found.dcn)
    assert found.most == pytest.approx(found.compute + found.hbm + found.ici)
