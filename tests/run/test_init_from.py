"""From a HuggingFace directory to training and out again, on the command line."""

import json

import jax
import numpy as np
import pytest

from lmx.cli.main import run
from lmx.data.huggingface_files import byte_level
from lmx.params import init
from lmx.run.load import load as open_model
from tests.models.hf.test_export import load, write
from tests.support import build_model, model_config, write_pretrained

SIZES = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "mlp.d_ff": 48, "vocab_size": 256}
SHORT = (
    "data=synthetic",
    "optimizer=sgd",
    "trainer.steps=1",
    "trainer.sequence_length=16",
    "trainer.global_batch_size=2",
    "trainer.eval_batch_size=2",
    "trainer.eval_sequences=2",
    "trainer.sample.tokens=0",
)


@pytest.fixture
def folder(tmp_path):
    config = model_config("qwen3_8b", SIZES)
    model = build_model(config)
    params = init(model.specs, jax.random.key(0), np.float32)
    write(tmp_path / "qwen", config, model, params)
    return tmp_path / "qwen"


def test_in_and_out_again(folder, tmp_path):
    still = ("optimizer.learning_rate=1e-30", f"hydra.run.dir={tmp_path / 'run'}")
    assert run(["train", f"model.init_from={folder}", *SHORT, *still]) == 0
    assert run(["export", f"from={tmp_path / 'run'}", f"to={tmp_path / 'out'}"]) == 0
    before, _, params = load(folder)
    after, _, others = load(tmp_path / "out")
    assert after.family == before.family
    jax.tree.map(np.testing.assert_array_equal, params, others)
    # A run can be gone on from as a directory of theirs can.
    again = ("optimizer.learning_rate=1e-30", f"hydra.run.dir={tmp_path / 'again'}")
    assert run(["train", f"model.init_from={tmp_path / 'run'}", *SHORT, *again]) == 0


def test_a_run_needs_nothing_of_the_directory_it_began_from(tmp_path, capsys):
    began = write_pretrained(tmp_path / "given")
    text = byte_level({bytes([b]): b for b in range(1, 256)}, r"[\s\S]", {"<end>": 0})
    (began / "tokenizer.json").write_text(text)
    (began / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    one, two = (f"hydra.run.dir={tmp_path / name}" for name in ("one", "two"))
    assert run(["train", f"model.init_from={began}", *SHORT, one]) == 0
    assert run(["train", f"model.init_from={tmp_path / 'one'}", *SHORT, two]) == 0
    encoded = open_model(began).tokenizer.encode("to be or not").tolist()
    began.rename(tmp_path / "gone")
    (tmp_path / "one").rename(tmp_path / "elsewhere")
    for name in ("elsewhere", "two"):
        opened = open_model(tmp_path / name)
        assert opened.max_length == 256
        vocabulary = opened.vocabulary
        assert vocabulary.encode("to be or not").tolist() == encoded
        assert vocabulary.eos_ids == (7, 9)
        assert run(["export", f"from={tmp_path / name}", f"to={tmp_path / f'{name}.out'}"]) == 0
        told = json.loads((tmp_path / f"{name}.out" / "config.json").read_text())
        assert (told["model_type"], told["max_position_embeddings"]) == ("qwen3", 256)
    assert run(["train", f"resume={tmp_path / 'two'}", "trainer.steps=2"]) == 0
    (tmp_path / "two" / "pretrained" / "model_config.json").unlink()
    assert run(["export", f"from={tmp_path / 'two'}", f"to={tmp_path / 'again'}"]) == 2
    assert "which is gone" in capsys.readouterr().err


def test_wrong_directories_are_one_problem(folder, tmp_path, capsys):
    assert run(["train", f"model.init_from={tmp_path / 'none'}", *SHORT]) == 2
    said = capsys.readouterr().err
    assert "1 problem" in said
    assert "no such directory" in said


def test_a_chosen_model_is_not_overruled(folder, tmp_path, capsys):
    choices = ("model=tiny", "tokenizer=bytes", f"hydra.run.dir={tmp_path / 'run'}")
    assert run(["train", f"model.init_from={folder}", *choices, *SHORT]) == 2
    assert "model=pretrained" in capsys.readouterr().err


def test_export_does_not_overwrite(folder, tmp_path, capsys):
    assert run(["export", f"from={folder}", f"to={folder}"]) == 2
    assert "exists already" in capsys.readouterr().err
