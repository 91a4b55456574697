"""The cache: whatever pieces a text comes in, and however short the windows, as one full pass; and no more memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx import params as param_tree
from tests.support import build_model, model_config

SMALL = {"n_layers": 5, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 61, "mlp.d_ff": 24}
VARIANTS = {
    "windows": ("llama3_8b", SMALL | {"attention.windows": [5, None]}),
    "windows_unrolled": ("llama3_8b", SMALL | {"attention.windows": [3, 6, None], "layer_loop": "unroll"}),
    "one_window": ("llama3_8b", SMALL | {"attention.windows": [1]}),
    "chunks": ("llama3_8b", SMALL | {"attention.chunks": [4, None], "layer_loop": "unroll"}),
    "sinks": (
        "gpt_oss_20b",
        SMALL
        | {"head_dim": 8, "attention.windows": [5, None], "moe.n_experts": 3, "moe.top_k": 2, "moe.d_ff": 16},
    ),
    "latent": (
        "deepseek_v2_lite",
        SMALL
        | {
            "n_kv_heads": 4,
            "head_dim": 12,
            "attention.windows": [5, None],
            "attention.latent.key_value_rank": 16,
            "attention.latent.rope_dim": 4,
            "attention.latent.value_dim": 10,
            "moe.n_experts": 4,
            "moe.top_k": 2,
            "moe.d_ff": 16,
            "moe.shared_d_ff": 16,
        },
    ),
}
LENGTH, PIECE = 24, 7


class Case:
    """A model, two texts, their hidden states in full passes, and the forward pass into a cache."""

    def __init__(self, name):
        option, changes = VARIANTS[name]
        changes = {"initializer.residual": "plain", "initializer.matrix": 0.3} | changes
        self.model = build_model(model_config(option, changes))
        params = jax.jit(lambda key: param_tree.init(self.model.specs, key, jnp.float32))(jax.random.key(1))
        leaves, structure = jax.tree.flatten(params)
        rng = np.random.default_rng(0)
        params = structure.unflatten([p + 0.1 * rng.normal(size=p.shape).astype("f") for p in leaves])
        self.tokens_BT = rng.integers(0, 61, (2, LENGTH)).astype(np.int32)
        full = jax.jit(self.model.forward)(params, jnp.asarray(self.tokens_BT))
        self.full_BTD = np.asarray(full.hidden)

        def forward(tokens_BT, real_BT, cache):
            out = self.model.forward(params, tokens_BT, segments_BT=real_BT, cache=cache)
            return out.hidden, out.cache

        self._forward = jax.jit(forward)

    def feed(self, cache, counts, width):
        """The next `counts` tokens of each row, padded to `width`, held against the full pass; the cache after."""
        starts = np.asarray(cache.lengths)
        tokens_BT = np.full((2, width), 60, np.int32)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            tokens_BT[row, :count] = self.tokens_BT[row, start : start + count]
        real_BT = (np.arange(width) < np.asarray(counts)[:, None]).astype(np.int32)
        hidden_BTD, cache = self._forward(tokens_BT, real_BT, cache)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            wanted = self.full_BTD[row, start : start + count]
            np.testing.assert_allclose(hidden_BTD[row, :count], wanted, rtol=2e-4, atol=2e-4)
        assert cache.lengths.tolist() == [s + c for s, c in zip(starts, counts, strict=True)]
        return cache


@pytest.fixture(scope="module", params=list(VARIANTS))
def case(request):
    return Case(request.param)


@given(st.lists(st.tuples(st.integers(0, PIECE), st.integers(0, PIECE)), min_size=2, max_size=4))
@settings(max_examples=12, deadline=None)
def test_ragged_pieces_and_single_tokens_are_as_one_pass(case, pieces):
    cache = case.model.init_cache(2, LENGTH)
    for wanted in pieces:
        left = LENGTH - np.asarray(cache.lengths)
        cache = case.feed(cache, [int(min(n, m)) for n, m in zip(wanted, left, strict=True)], PIECE)
        if np.asarray(cache.lengths).max() < LENGTH:
            cache = case.feed(cache, (1, 1), 1)


def test_a_prefill_longer_than_any_window_leaves_what_comes_next_its_past(case):
    """A cache of as many positions as the padded prompts have, given room afterwards, as the engine does."""
    cache = case.feed(case.model.init_cache(2, 16), (13, 6), 16)
    wanted = jax.eval_shape(lambda: case.model.init_cache(2, LENGTH))
    room = lambda x, w: jnp.pad(x, [(0, n - m) for m, n in zip(x.shape, w.shape, strict=True)])
    cache = jax.tree.map(room, cache, wanted)
    cache = case.feed(cache, (4, 7), PIECE)
    for _ in range(5):
        cache = case.feed(cache, (1, 1), 1)


def test_layers_keep_no_more_than_they_look_back_on():
    sizes = {}
    for name in ("windows", "chunks"):
        option, changes = VARIANTS[name]
        model = build_model(model_config(option, changes))
        cache = jax.eval_shape(lambda model=model: model.init_cache(3, 4096))
        sizes[name] = {x.shape[-2] for x in jax.tree.leaves((cache.keys, cache.values))}
        whole = build_model(
            model_config(option, {**changes, "attention.windows": [None], "attention.chunks": [None]})
        )
        full = jax.eval_shape(lambda whole=whole: whole.init_cache(3, 4096))
        held, all_ = (sum(x.size for x in jax.tree.leaves((c.keys, c.values))) for c in (cache, full))
        assert held < 0.42 * all_  # two of five layers see everything
    assert sizes == {"windows": {5, 4096}, "chunks": {4, 4096}}
