"""Properties that every decoder must have, over configurations that differ in every part."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import params as param_tree
from lmx.layers.loss import logits
from tests.support import build_model, model_config

SMALL = {"n_layers": 2, "d_model": 48, "n_heads": 4, "vocab_size": 97, "mlp.d_ff": 64}
VARIANTS = {
    "tiny": ("tiny", {}),
    "nano": ("nano", {}),
    "gpt2": ("gpt2", {"n_layers": 2, "d_model": 48, "n_heads": 4, "vocab_size": 97}),
    "nanogpt_jax": (
        "nanogpt_jax",
        {"n_layers": 2, "d_model": 48, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 97},
    ),
    "llama": (
        "llama3_8b",
        {"n_layers": 2, "d_model": 48, "n_heads": 4, "n_kv_heads": 1, "vocab_size": 97, "mlp.d_ff": 64},
    ),
    "qwen3": (
        "qwen3_0p6b",
        {
            "n_layers": 2,
            "d_model": 48,
            "n_heads": 4,
            "n_kv_heads": 2,
            "head_dim": 16,
            "vocab_size": 97,
            "mlp.d_ff": 64,
        },
    ),
    "olmo2": ("olmo2_7b", {"n_layers": 2, "d_model": 48, "n_heads": 4, "vocab_size": 97, "mlp.d_ff": 64}),
    "windows": ("tiny", {"n_layers": 5, "d_model": 48, "attention.windows": [5, None], "n_heads": 3}),
    "shift": ("tiny", {"n_layers": 2, "d_model": 48, "n_heads": 3, "convolution.embedding": 3}),
    "convolution": (
        "tiny",
        {"n_layers": 2, "d_model": 48, "n_heads": 3, "convolution.attention": 2, "convolution.mlp": 3},
    ),
    "nope": (
        "tiny",
        {"n_layers": 4, "d_model": 48, "n_heads": 3, "position.pattern": ["rope", "rope", "rope", "none"]},
    ),
    "gemma_like": (
        "tiny",
        {
            "n_layers": 2,
            "d_model": 48,
            "n_heads": 3,
            "norm.placement": "both",
            "norm.scale": "one_plus_weight",
            "norm.scale_in": "float32",
            "mlp.kind": "gated",
            "mlp.activation": "gelu_tanh",
            "embedding_scale": "sqrt_d_model",
            "attention.softcap": 6.0,
        },
    ),
    "llama4": (
        "llama4_scout",
        {
            **SMALL,
            "n_layers": 4,
            "n_kv_heads": 2,
            "position.ropes.rope.scaling.original_length": 8,
            "attention.chunks": [4, 4, 4, None],
            "attention.temperature.length": 3,
            "moe.n_experts": 4,
            "moe.d_ff": 24,
            "moe.shared_d_ff": 24,
            "moe.pattern": ["dense", "moe"],
        },
    ),
    "deepseek_v3": (
        "deepseek_v3",
        {
            **SMALL,
            "head_dim": 20,
            "attention.latent.query_rank": 24,
            "attention.latent.key_value_rank": 16,
            "attention.latent.rope_dim": 8,
            "attention.latent.value_dim": 10,
            "moe.n_experts": 8,
            "moe.top_k": 3,
            "moe.d_ff": 24,
            "moe.shared_d_ff": 24,
            "moe.first_dense": 1,
            "moe.router.groups.n": 4,
            "moe.router.groups.chosen": 2,
        },
    ),
    "gpt_oss": (
        "gpt_oss_20b",
        {
            **SMALL,
            "n_layers": 3,
            "n_kv_heads": 2,
            "head_dim": 12,
            "attention.windows": [5, None],
            "moe.n_experts": 5,
            "moe.top_k": 2,
            "moe.d_ff": 24,
            "mlp.limit": 1.0,
        },
    ),
    "longrope": (
        "tiny",
        {
            "n_layers": 1,
            "position.ropes.rope.scaling": {
                "_target_": "lmx.models.LongRopeScaling",
                "short_factors": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5],
                "long_factors": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
                "original_length": 6,
                "attention_factor": 1.2,
            },
        },
    ),
    "dynamic": (
        "tiny",
        {
            "n_layers": 1,
            "position.ropes.rope.scaling": {
                "_target_": "lmx.models.DynamicScaling",
                "factor": 4.0,
                "original_length": 6,
            },
        },
    ),
}
small = {"n_layers": 3, "d_model": 48, "n_heads": 3}


@pytest.fixture(params=list(VARIANTS))
def variant(request):
    name, changes = VARIANTS[request.param]
    if name in ("tiny", "nano"):
        changes = small | changes
        changes |= {"d_model": changes["n_heads"] * 16}
    config = model_config(name, {"initializer.residual": "plain", "initializer.head": 0.3} | changes)
    model = build_model(config)
    params = param_tree.init(model.specs, jax.random.key(1), jnp.float32)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + rng.normal(0, 0.2, p.shape).astype(np.float32), params)
    return config, model, params


def tokens_of(config, b, t, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (b, t)).astype(np.int32)


def run(model, params, tokens, **more):
    def of(params, tokens, more):
        return logits(model.forward(params, tokens, **more).hidden, model.head(params))

    return jax.jit(of)(params, jnp.asarray(tokens), more)


def test_causality_by_gradient(variant):
    """No output before position 7 has a gradient with respect to the embedding of token 7."""
    _, model, params = variant
    tokens = np.arange(12, dtype=np.int32)[None]

    def early(table):
        p = {**params, "embedding": {**params["embedding"], "tokens": table}}
        hidden = model.forward(p, jnp.asarray(tokens)).hidden
        return jnp.sum(hidden[0, :7] ** 2), jnp.sum(hidden[0, 7:] ** 2)

    table = params["embedding"]["tokens"]
    weights = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    before, after = jax.jit(lambda table: jax.vmap(lambda w: jax.vjp(early, table)[1](tuple(w))[0])(weights))(
        table
    )
    assert np.all(np.asarray(before[7:12]) == 0)
    assert np.all(np.abs(np.asarray(after[7:12])).max(-1) > 0)


def test_cached_equals_uncached(variant):
    """Prefill and then one token at a time gives the logits of one full pass, past any window."""
    config, model, params = variant
    tokens = tokens_of(config, 2, 14)
    full = run(model, params, tokens)
    forward = jax.jit(lambda tokens, cache: model.forward(params, tokens, cache=cache))
    out = forward(tokens[:, :9], model.init_cache(2, 14))
    parts, cache = [out.hidden], out.cache
    for t in range(9, 14):
        out = forward(tokens[:, t : t + 1], cache)
        cache = out.cache
        parts.append(out.hidden)
    cached = logits(jnp.concatenate(parts, axis=1), model.head(params))
    np.testing.assert_allclose(cached, full, rtol=2e-4, atol=2e-4)
    assert cache.lengths.tolist() == [14, 14]


@pytest.mark.parametrize("name", ["longrope", "dynamic"])
def test_ropes_by_length_go_by_what_a_row_will_become(name):
    """Whatever room the cache has, and whatever is in the other rows: 5 tokens of 5, and 5 of what will be 9."""
    option, changes = VARIANTS[name]
    config = model_config(option, small | changes | {"initializer.residual": "plain"})
    model = build_model(config)
    params = param_tree.init(model.specs, jax.random.key(1), jnp.float32)
    tokens = tokens_of(config, 2, 9)
    cache = model.init_cache(2, 16)._replace(limits=jnp.array([5, 9]))
    found = model.forward(params, jnp.asarray(tokens[:, :5]), cache=cache).hidden
    for row, limit in enumerate([5, 9]):
        whole = model.forward(params, jnp.asarray(tokens[row : row + 1, :limit])).hidden
        np.testing.assert_allclose(found[row], whole[0, :5], rtol=1e-4, atol=1e-5)
    assert np.abs(found[1] - model.forward(params, jnp.asarray(tokens[1:, :5])).hidden[0]).max() > 1e-3


def test_packed_equals_separate(variant):
    """Documents in one row, with segments and restarting positions, give each one's own logits."""
    config, model, params = variant
    lengths = [5, 8]
    tokens = tokens_of(config, 1, sum(lengths))
    segments = np.repeat(np.arange(1, 3), lengths)[None]
    positions = np.concatenate([np.arange(n) for n in lengths])[None]
    packed = run(
        model, params, tokens, positions_BT=jnp.asarray(positions), segments_BT=jnp.asarray(segments)
    )
    start = 0
    for n in lengths:
        alone = run(model, params, tokens[:, start : start + n])
        np.testing.assert_allclose(packed[:, start : start + n], alone, rtol=2e-4, atol=2e-4)
        start += n


LOOPED = {
    "windows": ("tiny", small | {"attention.windows": [4, None], "initializer.residual": "plain"}),
    "mixture": ("llama4_scout", VARIANTS["llama4"][1] | {"n_layers": 8, "moe.balance_loss": 0.1}),
}


CHANGES = (
    {"layer_loop": "unroll"},
    *({"remat": name} for name in ("full", "dots", "dots_no_batch", "block_io")),
)


@functools.cache
def value_and_grad(looped, **change):
    """Of a model whose layers are scanned and keep all, but for `change`."""
    name, base = LOOPED[looped]
    config = model_config(name, base | {"layer_loop": "scan", "remat": "none"} | change)
    model, tokens = build_model(config), jnp.asarray(tokens_of(config, 2, 10))
    params = param_tree.init(model.specs, jax.random.key(0), jnp.float32)

    def loss(p):
        out = model.forward(p, tokens)
        more = sum(value for key, value in out.aux.items() if key.startswith("loss/"))
        return jnp.mean(jnp.square(out.hidden) * jnp.arange(48)) + more

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
    ("looped", "change"),
    [*(("windows", change) for change in CHANGES), *(("mixture", change) for change in CHANGES[:2])],
)
def test_loop_and_remat_change_nothing(looped, change):
    """Scanned, unrolled and rematerialised layers give the same value and gradient."""
    expected, got = value_and_grad(looped), value_and_grad(looped, **change)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), expected, got)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", 124_439_808),  # Radford et al. 2019, as published weights count
        ("gpt2_medium", 354_823_168),
        ("gpt2_large", 774_030_080),
        ("gpt2_xl", 1_557_611_200),
        ("llama3_8b", 8_030_261_248),  # meta-llama/Meta-Llama-3-8B
        ("qwen3_0p6b", 596_049_920),  # Qwen/Qwen3-0.6B
        ("olmo2_7b", 7_298_617_344),  # allenai/OLMo-2-1124-7B
        ("mixtral_8x7b", 46_702_792_704),  # mistralai/Mixtral-8x7B-v0.1
        ("mixtral_8x22b", 140_620_634_112),  # mistralai/Mixtral-8x22B-v0.1
        ("qwen3_30b_a3b", 30_532_122_624),  # Qwen/Qwen3-30B-A3B
        ("qwen3_235b_a22b", 235_093_634_560),  # Qwen/Qwen3-235B-A22B
        ("deepseek_v2_lite", 15_706_484_224),  # deepseek-ai/DeepSeek-V2-Lite
        ("deepseek_v2", 235_741_434_880),  # deepseek-ai/DeepSeek-V2
        ("deepseek_v3", 671_026_419_200),  # deepseek-ai/DeepSeek-V3 without its last, second-token layer
        ("llama4_scout", 107_769_861_120),  # meta-llama/Llama-4-Scout-17B-16E, text
        ("llama4_maverick", 400_711_848_960),  # meta-llama/Llama-4-Maverick-17B-128E, text
        ("gpt_oss_20b", 20_914_757_184),  # openai/gpt-oss-20b
        ("gpt_oss_120b", 116_829_156_672),  # openai/gpt-oss-120b
    ],
)
def test_parameter_counts_are_the_published_ones(name, expected):
    config = model_config(name)
    assert param_tree.count(build_model(config).specs) == expected
    assert not config.problems()


def test_dropout_is_drawn_from_its_key():
    """The same key drops the same, another key another, and none without a key."""
    config = model_config("tiny", small | {"dropout": 0.3, "initializer.residual": "plain"})
    model = build_model(config)
    params = param_tree.init(model.specs, jax.random.key(0), jnp.float32)
    tokens = jnp.asarray(tokens_of(config, 1, 8))
    out = lambda key: np.asarray(model.forward(params, tokens, dropout_key=key).hidden)
    one, same, other = out(jax.random.key(1)), out(jax.random.key(1)), out(jax.random.key(2))
    none = out(None)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01
    assert np.abs(one - none).max() > 0.01


def test_bf16_stays_near_float32():
    config = model_config("tiny", small)
    model32, model16 = build_model(config), build_model(config, dtype="bfloat16")
    params = param_tree.init(model32.specs, jax.random.key(0), jnp.float32)
    tokens = jnp.asarray(tokens_of(config, 2, 16))
    a = model32.forward(params, tokens).hidden
    b = model16.forward(params, tokens).hidden
    assert b.dtype == jnp.bfloat16
    assert float(jnp.abs(a - b.astype(jnp.float32)).mean()) < 0.05
