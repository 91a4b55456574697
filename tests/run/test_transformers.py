"""What was trained here goes out: transformers, where it is installed, answers the same."""

from __future__ import annotations

import numpy as np
import pytest

from lmx.cli.main import run
from lmx.run.load import load

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

SHORT = (
    "data=synthetic",
    "trainer.steps=3",
    "trainer.sequence_length=16",
    "trainer.global_batch_size=2",
    "trainer.eval_batch_size=2",
    "trainer.eval_sequences=2",
    "trainer.sample.tokens=0",
    "tokenizer=bytes",
    "model.vocab_size=256",
    "model.n_layers=2",
    "model.d_model=32",
    "model.n_heads=4",
    "model.n_kv_heads=2",
)


def test_an_exported_run_answers_the_same(tmp_path):
    assert (
        run(["train", "model=qwen3_0p6b", "model.mlp.d_ff=48", *SHORT, f"hydra.run.dir={tmp_path / 'run'}"])
        == 0
    )
    assert run(["export", f"from={tmp_path / 'run'}", f"to={tmp_path / 'out'}"]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    ours = load(tmp_path / "run")
    ids = np.random.default_rng(0).integers(0, ours.config.model.vocab_size, (2, 16))
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(np.asarray(ours.logits(ids)), wanted, atol=1e-4)
    assert np.abs(wanted).max() > 0.01
    made = theirs.generate(torch.from_numpy(ids[:, :6]), max_new_tokens=4, do_sample=False, eos_token_id=None)
    np.testing.assert_array_equal(ours.generate(ids[:, :6], 4), made.numpy())
