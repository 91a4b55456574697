"""The engine: rows do not depend on one another, seeds decide, stops cut, and buckets are all that is compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring

from lmx import params as param_tree
from lmx.infer.engine import Engine
from lmx.infer.prepare import prepare
from lmx.infer.requests import Request
from lmx.infer.score import Scorer
from lmx.layers.loss import logits
from tests.support import build_model, model_config

SMALL = {
    "n_layers": 2,
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 2,
    "vocab_size": 256,
    "mlp.d_ff": 48,
    "attention.windows": [6, None],
}


class Bytes:
    vocab_size, eos_id = 256, None

    def decode_bytes(self, ids):
        return bytes(int(i) for i in ids)


def make(loop="unroll", prepared=True, **knobs):
    model = build_model(model_config("llama3_8b", SMALL | {"layer_loop": loop}))
    params = jax.jit(lambda key: param_tree.init(model.specs, key, jnp.float32))(jax.random.key(1))
    leaves, structure = jax.tree.flatten(params)
    params = structure.unflatten(
        [p + 0.15 * np.random.default_rng(i).normal(size=p.shape).astype("f") for i, p in enumerate(leaves)]
    )
    used = prepare(params, jnp.float32) if prepared else params
    return Engine(model, used, Bytes(), **knobs), model, params


@pytest.fixture(scope="module")
def engine():
    return make()[0]


@pytest.fixture(scope="module")
def short():
    """An engine for 64 tokens."""
    return make(max_length=64)[0]


def prompt(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, n).tolist()


def test_greedy_is_the_argmax_of_full_passes_whatever_the_layout():
    ids = prompt(11)
    one, model, params = make()
    tokens = one.run([Request(tokens=ids, max_new_tokens=12)])[0].tokens
    whole = jnp.asarray([ids + tokens])
    full = logits(jax.jit(model.forward)(params, whole).hidden, model.head(params))
    assert len(tokens) == 12
    assert tokens == np.asarray(full.argmax(-1))[0, len(ids) - 1 : -1].tolist()
    for loop, prepared in (("scan", False),):
        other = make(loop, prepared)[0]
        assert other.run([Request(tokens=ids, max_new_tokens=12)])[0].tokens == tokens


def test_ragged_rows_are_as_each_alone_and_seeds_decide(engine):
    asked = [
        Request(tokens=prompt(n, n), max_new_tokens=m, temperature=t, seed=s, **knobs)
        for n, m, t, s, knobs in (
            (3, 9, 0.0, 0, {}),
            (14, 5, 1.0, 1, {"top_k": 40}),
            (1, 12, 0.8, 2, {"top_p": 0.9, "repetition_penalty": 1.3}),
            (9, 12, 1.2, 2, {"min_p": 0.01, "frequency_penalty": 0.5, "logprobs": 3}),
            (9, 12, 1.2, 3, {"logit_bias": {5: 1.0}}),
        )
    ]
    together = engine.run(asked)
    for request, result in zip(asked, together, strict=True):
        assert engine.run([request])[0].tokens == result.tokens
        assert len(result.tokens) == request.max_new_tokens
    assert engine.run(asked[::-1])[0].tokens == together[-1].tokens
    same = [Request(tokens=prompt(5), max_new_tokens=12, temperature=1.0, seed=4, sample=i) for i in range(3)]
    assert len({tuple(r.tokens) for r in engine.run(same)}) == 3


def test_logprobs_are_those_of_the_model():
    engine, model, params = make()
    ids = prompt(6)
    result = engine.run([Request(tokens=ids, max_new_tokens=4, temperature=1.0, seed=3, logprobs=2)])[0]
    whole = jnp.asarray([ids + result.tokens])
    log = jax.nn.log_softmax(logits(jax.jit(model.forward)(params, whole).hidden, model.head(params)))
    assert result.logprobs is not None
    for n, (token, found) in enumerate(zip(result.tokens, result.logprobs, strict=True)):
        row = np.asarray(log[0, len(ids) - 1 + n])
        assert found.chosen == pytest.approx(row[token], abs=1e-4)
        assert [i for i, _ in found.best] == np.argsort(-row)[:2].tolist()
    score = Scorer(model, params, max_length=64, batch_size=2).score([(ids, result.tokens), ([1], [2])])
    assert score[0].logprob == pytest.approx(sum(p.chosen for p in result.logprobs), abs=1e-3)


def test_stop_tokens_and_texts_cut_exactly(engine):
    ids = prompt(4)
    whole = engine.run([Request(tokens=ids, max_new_tokens=20, temperature=1.0, seed=1)])[0]
    token = whole.tokens[7]
    cut = engine.run([Request(tokens=ids, max_new_tokens=20, temperature=1.0, seed=1, stop_tokens=[token])])[
        0
    ]
    assert cut.tokens == whole.tokens[: whole.tokens.index(token)]
    assert (cut.finish_reason, whole.finish_reason) == ("stop", "length")
    letters = {i: 50.0 for i in range(97, 123)}
    free = Request(tokens=ids, max_new_tokens=40, temperature=1.0, seed=1, logit_bias=letters)
    text = engine.run([free])[0].text
    stop = text[17:20]
    ended = engine.run([Request(**{**free.__dict__, "stop": [stop]})])[0]
    assert ended.text == text[: text.index(stop)]
    assert ended.finish_reason == "stop"


def test_streamed_pieces_are_the_text(engine):
    asked = [Request(tokens=prompt(4, i), max_new_tokens=40, temperature=1.0, seed=i) for i in range(3)]
    results = [None] * 3
    pieces = {0: "", 1: "", 2: ""}
    for delta in engine.stream(asked, results):
        pieces[delta.index] += delta.text
    assert [pieces[i] for i in range(3)] == [r.text for r in results]


@pytest.fixture
def compiled():
    """What is compiled, or taken from the cache of compiled programs, while a test runs."""
    seen: list[str] = []

    def listen(name: str, seconds: float, **_: object) -> None:
        if name.endswith("backend_compile_duration"):
            seen.append(name)

    monitoring.register_event_duration_secs_listener(listen)
    yield seen
    monitoring.unregister_event_duration_listener(listen)


def test_nothing_is_compiled_after_warm_up(compiled):
    """200 requests of mixed lengths, knobs and batch sizes, after each bucket was met once."""
    engine = make(max_batch=2)[0]
    rng = np.random.default_rng(0)

    def request(n, m, **knobs):
        return Request(tokens=prompt(n), max_new_tokens=m, **knobs)

    engine.warm_up(64)
    compiled.clear()
    done = 0
    while done < 200:
        rows = int(rng.integers(1, 3))
        asked = [
            request(
                int(rng.integers(1, 33)),
                int(rng.integers(1, 33)),
                temperature=float(rng.choice([0.0, 0.7])),
                top_k=int(rng.integers(1, 50)) if rng.random() < 0.5 else None,
                stop_tokens=rng.integers(0, 256, int(rng.choice([3, 40]))).tolist(),
                logit_bias={i: 0.5 for i in range(int(rng.choice([0, 100])))},
                logprobs=2 if rng.random() < 0.2 else None,
                seed=done,
            )
            for _ in range(rows)
        ]
        engine.run(asked)
        done += rows
    assert compiled == []
    jax.jit(lambda x: x + 3.25)(jnp.ones(7))
    assert compiled, "the listener hears of compilations"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": []}, "empty"),
        ({"tokens": [256]}, "outside the model's vocabulary of 256"),
        ({"tokens": [-1]}, "outside"),
        ({"tokens": [1] * 30, "max_new_tokens": 50}, "max_new_tokens=34 would fit"),
        ({"tokens": [1] * 64}, "shorten the prompt"),
        ({"logprobs": 21}, "at most 20"),
        ({"logit_bias": {999: 1.0}}, "logit_bias: id 999"),
        ({"temperature": -1.0}, "temperature=-1.0: must be at least 0"),
        ({"top_k": 0}, "top_k=0: must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0: must be above 0"),
        ({"min_p": 1.5}, "min_p=1.5: must be 0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0: must be above 0"),
    ],
)
def test_bad_requests_say_what_is_wrong(change, message, short):
    with pytest.raises(ValueError, match=message):
        short.run([Request(**({"tokens": [1], "max_new_tokens": 4} | change))])
