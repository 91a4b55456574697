"""What a finished run prints."""

from __future__ import annotations

import shlex
from types import SimpleNamespace

import pytest

from lmx.config.compose import load
from lmx.data.pretrained import IdsOnly
from lmx.run.config import TrainConfig
from lmx.run.numbers import words_at_end


def next_command(run, tokenizer):
    (run / "checkpoints" / "3").mkdir(parents=True)
    config = load("train", ["trainer.sample.prompt='a, b'"], schema=TrainConfig).config
    results = {"eval_loss": 1.0, "eval_bits_per_byte": None, "run_dir": str(run)}
    last = words_at_end(results, config, None, tokenizer).splitlines()[-1]
    assert last.startswith("next: ")
    return shlex.split(last.removeprefix("next: "))


@pytest.mark.parametrize(("name", "written"), [("run", "{}"), ("lr=1,seed=0", '"{}"')])
def test_the_next_command_goes_on_from_the_prompt(tmp_path, name, written):
    run = tmp_path / name
    from_run = f"from={written.format(run)}"
    assert next_command(run, SimpleNamespace()) == ["lmx", "generate", from_run, "prompt=a, b"]


def test_where_text_has_no_ids_the_next_command_gives_ids(tmp_path):
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    tokenizer = IdsOnly(tmp_path, vocab_size=10)
    assert next_command(tmp_path / "run", tokenizer)[-1] == "prompt_tokens=[7]"
