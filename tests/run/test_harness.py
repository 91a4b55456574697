"""What lm-evaluation-harness asks: log-probabilities and continuations, against the model's own losses."""

from __future__ import annotations

import numpy as np
import pytest

from lmx.config.compose import load as compose
from lmx.run.harness import Judged
from lmx.run.infer_config import EvalConfig
from lmx.run.load import load
from tests.support import ROOT, write_pretrained

TOKENIZER = ROOT.parent / "shared" / "parity" / "tokenizers" / "bytelevel_chatml"

pytestmark = pytest.mark.skipif(not TOKENIZER.is_dir(), reason="the parity fixtures are not here")


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = write_pretrained(tmp_path_factory.mktemp("hf") / "model", tokenizer=TOKENIZER)
    config = compose(
        "eval", [f"from={folder}", "batch_size=4", "sequence_length=24"], schema=EvalConfig
    ).config
    return Judged(load(folder), config), load(folder)


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


def test_generate_until_ends_at_the_text(judged):
    judged, _ = judged
    asked = [("The sky", {"until": [], "max_gen_toks": 12}), ("Question:", {"max_gen_toks": 5})]
    free = judged.generate(asked)
    assert free[0]
    stop = free[0][len(free[0]) // 2 :][:2]
    cut = judged.generate([("The sky", {"until": [stop], "max_gen_toks": 12})])[0]
    assert cut == free[0][: free[0].index(stop)]
