"""Windows over a text: a score is that of the tokens, whatever the row is filled up with."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import params as param_tree
from lmx.run.strided import batched, windows
from lmx.train.evaluate import byte_table, evaluate, make_eval_step
from tests.infer.test_score import DYNAMIC, SMALL
from tests.support import build_model, kernels_config, model_config


def test_a_rope_by_length_goes_by_the_text_and_not_by_the_padding():
    model = build_model(model_config("tiny", SMALL | {"position.ropes.rope.scaling": DYNAMIC}))
    params = param_tree.init(model.specs, jax.random.key(0), jnp.float32)
    kernels = kernels_config("plain").build("cpu", n_devices=1)
    table = byte_table(None, model.config.vocab_size)
    whole = jax.jit(make_eval_step(model, kernels))
    step = lambda params, batch: whole(params, batch, table)
    ids = np.random.default_rng(0).integers(0, 256, 13).astype(np.int32)
    losses = []
    for length in (12, 64):  # as it is, and padded beyond the length from which the rope is stretched
        rows = batched(windows(iter([ids]), length, length), 2, None)
        found = evaluate(step, params, rows)
        assert found.tokens == 12
        losses.append(found.loss)
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
