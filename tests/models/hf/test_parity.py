"""Every family against its fixture: logits, losses, gradients, cached decoding and greedy continuations."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmx
from lmx.layers.loss import logits as to_logits
from lmx.models.hf.tensors import bind, written
from lmx.params import named_params
from lmx.run.load import find
from tests.support import ROOT

PARITY = ROOT.parent / "shared" / "parity"
FAMILIES = [
    "deepseek_v2",
    "deepseek_v3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_bigcode",
    "gpt_oss",
    "llama2",
    "llama3_1",
    "llama3_2",
    "llama4_text",
    "mistral",
    "mixtral",
    "olmo2",
    "olmo3",
    "phi3",
    "phi3_longrope",
    "qwen2",
    "qwen3",
    "qwen3_moe_nonorm",
    "qwen3_moe_norm",
    "smollm3",
    "starcoder2",
]
"""Fixtures whose family is read; others are added here when theirs is."""

CACHES = ["deepseek_v3", "gemma3_text", "gpt2", "gpt_oss", "llama4_text", "phi3_longrope"]
"""One of each kind of cache."""

DECODERS = [*CACHES, "gpt_bigcode", "llama3_1", "mixtral", "olmo3", "qwen3", "smollm3", "starcoder2"]
"""One of each kind of decoder."""

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason="the parity fixtures are not here")


def slow_but(names):
    """All families, those beside `names` for `-m slow` alone."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@functools.cache
def reference(name):
    with np.load(PARITY / name / "ref.npz") as file:
        ref = dict(file)
    return ref, json.loads((PARITY / name / "meta.json").read_text())


@functools.cache
def model(name):
    return lmx.load(PARITY / name)


def named_gradients(name, grads):
    """Gradients under the names and in the layouts of the checkpoint."""
    loaded, source = model(name), find(PARITY / name)
    config = loaded.config.model
    bound = bind(source.checkpoint.family.tensors_of(config), config, loaded.model.specs)
    arrays = dict(zip(named_params(loaded.model.specs), jax.tree.leaves(grads), strict=True))
    return {w.name: w.make() for w in written(bound, arrays, np.dtype(np.float32))}


@functools.cache
def computed(name):
    """logits, nll, loss and gradients (by parameter) of the fixture's input."""
    loaded, (ref, _) = model(name), reference(name)
    ids_BT = jnp.asarray(ref["input_ids"])

    def loss(params):
        y_BTV = to_logits(loaded.model.forward(params, ids_BT).hidden, loaded.model.head(params))
        scores = jax.nn.log_softmax(y_BTV[:, :-1])
        nll_BT = -jnp.take_along_axis(scores, ids_BT[:, 1:, None], axis=-1)[..., 0]
        return nll_BT.mean(), (y_BTV, nll_BT)

    with jax.default_matmul_precision("highest"):
        (value, (y_BTV, nll_BT)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(loaded.params)
    return np.asarray(y_BTV), np.asarray(nll_BT), float(value), named_gradients(name, grads)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_losses(name):
    ref, meta = reference(name)
    y_BTV, nll_BT, loss, _ = computed(name)
    allowed = meta["tolerance"]
    assert np.abs(y_BTV - ref["logits_f64"]).max() <= allowed["logits_max_abs"]
    assert np.abs(nll_BT - ref["nll"]).max() <= allowed["nll_max_abs"]
    assert abs(loss - float(ref["loss"])) <= allowed["loss_abs"]


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients(name):
    ref, meta = reference(name)
    *_, grads = computed(name)
    allowed = meta["tolerance"]
    norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in grads.values()))
    assert abs(norm / float(ref["grad_norm"]) - 1) <= allowed["grad_norm_rel"]
    for i, tensor in enumerate(ref["grad_names"]):
        wanted = ref[f"grad.{i}"]
        assert np.abs(grads[str(tensor)] - wanted).max() <= allowed["grad_max_rel"] * np.abs(wanted).max()
    assert grads.keys() == meta["grad_norms"].keys()
    for tensor, wanted in meta["grad_norms"].items():
        found = np.linalg.norm(grads[tensor].astype(np.float64))
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-5 * norm), tensor


@pytest.mark.parametrize("name", slow_but(CACHES))
def test_prefill_and_decode_equal_the_full_forward(name):
    ref, meta = reference(name)
    loaded = model(name)
    ids_BT = jnp.asarray(ref["input_ids"])
    full_BTV = computed(name)[0]
    prompt, length = ref["prompt_ids"].shape[1], ids_BT.shape[1]
    if meta.get("rope_depends_on_length"):
        prompt = length - 2  # shorter prefixes are rotated otherwise than the whole
    split = max(prompt, length - 6)

    @jax.jit
    def step(params, ids, cache):
        out = loaded.model.forward(params, ids, cache=cache)
        return to_logits(out.hidden, loaded.model.head(params)), out.cache

    with jax.default_matmul_precision("highest"):
        cache = loaded.model.init_cache(ids_BT.shape[0], length)
        parts = []
        first, cache = step(loaded.params, ids_BT[:, :split], cache)
        parts.append(first)
        for t in range(split, length):
            y, cache = step(loaded.params, ids_BT[:, t : t + 1], cache)
            parts.append(y)
    found_BTV = np.concatenate([np.asarray(p) for p in parts], axis=1)
    assert np.abs(found_BTV - full_BTV).max() <= meta["tolerance"]["logits_max_abs"]


@pytest.mark.parametrize("name", slow_but(DECODERS))
def test_greedy_continuation(name):
    ref, _ = reference(name)
    prompt_BT = ref["prompt_ids"]
    with jax.default_matmul_precision("highest"):
        whole_BT = model(name).generate(prompt_BT, ref["greedy_ids"].shape[1], temperature=0.0)
    np.testing.assert_array_equal(whole_BT[:, prompt_BT.shape[1] :], ref["greedy_ids"])
