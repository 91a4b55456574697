"""What lm-evaluation-harness asks: log-probabilities and continuations, against the model's own losses."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import params as param_tree
from lmx.config.compose import load as compose
from lmx.config.errors import RequestError
from lmx.data.tokenizers import ByteTokenizer
from lmx.infer.engine import Engine
from lmx.infer.score import Scorer
from lmx.run.harness import Judged, answer_knobs, unknown_task
from lmx.run.infer_config import EvalConfig
from lmx.run.load import load
from tests.support import ROOT, build_model, model_config, write_pretrained

TOKENIZER = ROOT.parent / "shared" / "parity" / "tokenizers" / "bytelevel_chatml"

needs_fixtures = pytest.mark.skipif(not TOKENIZER.is_dir(), reason="the parity fixtures are not here")


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = write_pretrained(tmp_path_factory.mktemp("hf") / "model", tokenizer=TOKENIZER)
    config = compose(
        "eval", [f"from={folder}", "batch_size=4", "sequence_length=24"], schema=EvalConfig
    ).config
    return Judged(load(folder), config), load(folder)


@needs_fixtures
def test_loglikelihood_is_the_loss_of_the_continuation(judged):
    judged, loaded = judged
    pairs = [("The sky is", " blue"), ("2 + 2 =", " 4"), ("a b c ", "d"), ("", "alone")]
    found = judged.loglikelihood(pairs)
    for (context, continuation), (logprob, greedy) in zip(pairs, found, strict=True):
        before, after = judged.pair(context, continuation)
        losses = np.asarray(loaded.loss([[*before, *after]]))[0, len(before) - 1 :]
        assert logprob == pytest.approx(-losses.sum(), abs=1e-3)
        best = np.asarray(loaded.logits([[*before, *after]]))[0].argmax(-1)[len(before) - 1 : -1]
        assert greedy == (best.tolist() == after)


@needs_fixtures
def test_rolling_scores_every_token_once(judged):
    judged, loaded = judged
    text = "to be or not to be, that is the question: whether it is nobler; " * 3
    ids = loaded.tokenizer.encode(text).tolist()
    assert len(ids) > 2 * judged.max_length
    total, step = 0.0, judged.max_length - 1
    for begin in range(0, len(ids), step):
        before = judged.start if begin == 0 else [ids[begin - 1]]
        total -= float(np.asarray(loaded.loss([[*before, *ids[begin : begin + step]]])).sum())
    assert judged.rolling([text, text])[1] == pytest.approx(total, abs=1e-2)


@needs_fixtures
def test_generate_until_ends_at_the_text(judged):
    judged, _ = judged
    asked = [("The sky", {"until": [], "max_gen_toks": 12}), ("Question:", {"max_gen_toks": 5})]
    free = judged.generate(asked)
    assert free[0]
    stop = free[0][len(free[0]) // 2 :][:2]
    cut = judged.generate([("The sky", {"until": [stop], "max_gen_toks": 12})])[0]
    assert cut == free[0][: free[0].index(stop)]


def plain(max_length=24):
    """A model with the byte tokenizer."""
    config = model_config("tiny", {"n_layers": 1, "d_model": 32, "n_heads": 2, "n_kv_heads": 2})
    model = build_model(config)
    tokenizer = ByteTokenizer(256)
    found = object.__new__(Judged)
    found.config = SimpleNamespace(max_new_tokens=8)
    found.tokenizer, found.max_length = tokenizer, max_length
    params = param_tree.init(model.specs, jax.random.key(0), jnp.float32)
    found.engine = Engine(model, params, tokenizer, max_length=max_length, max_batch=4)
    found.scorer = Scorer(model, params, max_length=max_length, batch_size=4)
    return found


def test_equal_requests_are_drawn_anew_and_do_sample_decides():
    judged = plain()
    hot = {"temperature": 1.5, "do_sample": True}
    drawn = judged.generate([("The sky", hot)] * 3)
    assert len(set(drawn)) == 3
    assert judged.generate([("The sky", hot)] * 3) == drawn
    greedy = judged.generate([("The sky", hot | {"do_sample": False}), ("The sky", {})])
    assert greedy[0] == greedy[1]
    assert len(set(judged.generate([("The sky", hot | {"top_k": 1})] * 2))) == 1


def test_knobs_of_a_task_take_effect_or_are_refused():
    found = answer_knobs({"max_new_tokens": 5, "min_p": 0.1, "temperature": 0.5, "num_beams": 1}, 8)
    assert (found["max_new_tokens"], found["min_p"], found["temperature"]) == (5, 0.1, 0.5)
    assert answer_knobs({"until": "x", "top_k": 0}, 8)["max_new_tokens"] == 8
    for key, value in (("num_beams", 4), ("best_of", 2)):
        with pytest.raises(RequestError, match=f"generation_kwargs has {key}={value}"):
            answer_knobs({key: value}, 8)


def test_what_does_not_fit_is_named():
    with pytest.raises(
        RequestError, match=r"mine, document 3: its continuation of 30 tokens .* context of 24"
    ):
        plain().loglikelihood([("a", "b" * 30)], ["mine, document 3"])


def test_prompts_that_lose_their_beginning_are_counted(caplog):
    judged = plain()
    judged.loglikelihood([("a" * 30, "b"), ("a", "b")])
    judged.generate([("a", {}), ("a" * 17, {}), ("a" * 40, {})])
    assert [said.split(" beside")[0] for said in caplog.messages] == [
        "tasks: 1 of 2 prompts do not fit the context of 24",
        "tasks: 2 of 3 prompts do not fit the context of 24",
    ]


def test_a_task_that_is_not_there_is_named():
    assert unknown_task("nope", None) == "tasks: the harness has no task 'nope'"
    assert "nor include_path=tasks has a task 'nope'" in unknown_task("nope", "tasks")
