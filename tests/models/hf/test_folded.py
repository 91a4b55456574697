"""GPT-2 with scores that shrink with depth: its queries do, and nothing else."""

from __future__ import annotations

import json

import jax
import numpy as np

from lmx.params import init
from tests.models.hf.test_export import load, write
from tests.support import build_model, model_config


def test_the_queries_of_a_layer_are_divided_by_its_number(tmp_path):
    config = model_config("gpt2", {"n_layers": 3, "d_model": 16, "n_heads": 2, "vocab_size": 40})
    model = build_model(config)
    params = init(model.specs, jax.random.key(0), np.float32)
    params = jax.tree.map(lambda x: x + 1, params)  # biases start at 0
    write(tmp_path / "out", config, model, params)
    file = tmp_path / "out" / "config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"scale_attn_by_inverse_layer_idx": True}),
    )
    found, model, folded = load(tmp_path / "out")
    for name in ("query", "query_bias"):
        whole = params["layers"][0]["attention"][name]
        by_layer = np.arange(1, 4, dtype=np.float32).reshape(3, *[1] * (whole.ndim - 1))
        params["layers"][0]["attention"][name] = np.asarray(whole) / by_layer
    jax.tree.map(np.testing.assert_array_equal, params, folded)
    write(tmp_path / "again", found.config, model, folded)
    assert not json.loads((tmp_path / "again" / "config.json").read_text()).get(
        "scale_attn_by_inverse_layer_idx"
    )
    jax.tree.map(np.testing.assert_array_equal, folded, load(tmp_path / "again")[2])
