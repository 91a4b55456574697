"""Scores of continuations: each row's own, whatever is beside it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import params as param_tree
from lmx.infer.score import Scorer
from lmx.layers.loss import logits
from tests.support import build_model, model_config

DYNAMIC = {"_target_": "lmx.models.DynamicScaling", "factor": 4.0, "original_length": 16}
SMALL = {"n_layers": 1, "d_model": 32, "n_heads": 2, "n_kv_heads": 2, "initializer.residual": "plain"}


def test_a_rope_by_length_goes_by_the_row_and_not_by_the_batch():
    model = build_model(model_config("tiny", SMALL | {"position.ropes.rope.scaling": DYNAMIC}))
    params = param_tree.init(model.specs, jax.random.key(0), jnp.float32)
    ids = np.random.default_rng(0).integers(0, 256, 40).tolist()
    short, long = (ids[:6], ids[6:14]), (ids[:20], ids[20:])
    scorer = Scorer(model, params, max_length=64, batch_size=2)
    alone, beside = scorer.score([short])[0], scorer.score([short, long])[0]
    assert beside.logprob == pytest.approx(alone.logprob, abs=1e-4)
    rows = jnp.asarray([short[0] + short[1]])
    log = jax.nn.log_softmax(logits(model.forward(params, rows).hidden, model.head(params)))[0]
    whole = sum(float(log[5 + n, token]) for n, token in enumerate(short[1]))
    assert alone.logprob == pytest.approx(whole, abs=1e-4)
