"""Options beyond the fixtures, against what transformers answered (`make_answers.py` renews that)."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import lmx
from tests.models.hf.make_answers import ANSWERS, PLACES
from tests.models.hf.options import CROSSING, OPTIONS, config_of
from tests.models.hf.seeded import IDS, write_seeded

QUICK = {"gpt2_invlayer", "llama_yarn_mscale", "dsv2_full", "llama4_opts"}
"""Those that are run each time: parts that no fixture has."""


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in OPTIONS]
)
def test_logits(name, tmp_path):
    told = json.loads(ANSWERS.read_text())[name]["logits"]
    write_seeded(tmp_path, config_of(name))
    with jax.default_matmul_precision("highest"):
        found = np.asarray(lmx.load(tmp_path).logits(IDS))[0, list(PLACES)]
    np.testing.assert_allclose(found, told, atol=1e-4)


@pytest.mark.parametrize("name", CROSSING)
def test_a_continuation_that_grows_past_the_switch(name, tmp_path):
    wanted = json.loads(ANSWERS.read_text())[name]["greedy"]
    write_seeded(tmp_path, config_of(name))
    loaded = lmx.load(tmp_path)
    with jax.default_matmul_precision("highest"):
        whole = loaded.generate(IDS[:, :20], 12)[0, 20:].tolist()
        # What comes first does not hang on how much is to follow, nor a row on one that has crossed already.
        short = loaded.generate(IDS[:, :20], 3)[0, 20:].tolist()
    assert whole == wanted
    assert short == wanted[:3]
