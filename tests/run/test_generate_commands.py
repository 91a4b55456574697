"""`lmx generate`, `chat`, `eval` and `bench generate` as real processes on a run made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.refusals import refusals
from tests.support import ROOT


def lmx(*words, cwd, stdin=None):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "LMX_ENVIRONMENT": "set"}
    return subprocess.run(
        [sys.executable, "-m", "lmx", *words],
        cwd=cwd,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = lmx(
        "train",
        "trainer.steps=1",
        "model.n_layers=1",
        "model.d_model=32",
        "model.n_heads=2",
        "trainer.sequence_length=64",
        "trainer.eval_sequences=2",
        "hydra.run.dir=a",
        cwd=folder,
    )
    assert made.returncode == 0, made.stderr
    return folder


def test_generate_json_has_what_was_promised(folder):
    done = lmx(
        *("generate", "from=a", "prompt_tokens=[100,101,102]", "n=2", "temperature=1", "logprobs=2"),
        *("max_new_tokens=6", "output=json", "ignore_eos=true"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 2
    for sample, row in enumerate(rows):
        assert row["prompt"] == "def"
        assert len(row["tokens"]) == 6 == len(row["logprobs"])
        assert row["finish_reason"] == "length"
        assert row["tokens_per_second"] > 0
        assert row["sample"] == sample
    assert rows[0]["tokens"] != rows[1]["tokens"]


def test_generate_many_prompts_in_their_order(folder):
    (folder / "prompts.txt").write_text("def a\nimport b\nclass C\n")
    words = ("generate", "from=a", "prompts_file=prompts.txt", "max_new_tokens=5", "logit_bias={65: 1000}")
    done = lmx(*words, "batch_size=2", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["def aAAAAA", "import bAAAAA", "class CAAAAA"]
    assert "tokens/s" in done.stderr


REFUSED = [
    (("generate", "prompt="), "empty"),
    (("generate", "prompt_tokens=[1,300]"), "id 300 is outside the model's vocabulary of 256"),
    (("generate", "prompt=x", "stop_tokens=[999]"), "stop_tokens: id 999"),
    (("generate", "prompt=x", "logprobs=30", "output=json"), "at most 20"),
    (("generate", "prompt=x", "logprobs=2"), "shown with output=json alone"),
    (("eval", "stride=100", "sequence_length=64"), "stride=64 is the most"),
]


@pytest.fixture(scope="module")
def answers(folder):
    requests = [[command, "from=a", *words] for (command, *words), _ in REFUSED]
    return refusals(requests, cwd=folder, environment={"JAX_PLATFORMS": "cpu", "LMX_ENVIRONMENT": "set"})


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[" ".join(words) for words, _ in REFUSED])
def test_what_is_refused(number, answers):
    code, said = answers[number]
    assert code == 2
    assert REFUSED[number][1] in said
    assert "Traceback" not in said


def test_chat_in_a_pipe(folder):
    said = "hello\n/settings max_new_tokens=3 logit_bias={66: 1000}\n/reset\nagain\n/save talk.json\n/quit\nnever\n"
    words = ("chat", "from=a", "max_new_tokens=4", "logit_bias={65: 1000}", "system=Be brief")
    done = lmx(*words, cwd=folder, stdin=said)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "AAAA\nBBB\n"
    assert json.loads((folder / "talk.json").read_text())["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": "BBB"},
    ]
    wrong = lmx("chat", "from=a", cwd=folder, stdin="/settings temperature=-1\n")
    assert wrong.returncode == 2
    assert "temperature" in wrong.stderr


def test_eval_with_more_context_scores_the_same_tokens(folder):
    (folder / "book.txt").write_text("to be or not to be. " * 80)
    found = {}
    for stride in (64, 16):
        done = lmx(
            *(
                "eval",
                "from=a",
                f"stride={stride}",
                "data=text",
                "data.path=book.txt",
                "data.split.fraction=0.3",
            ),
            *("sequence_length=64", "output=json"),
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        found[stride] = json.loads(done.stdout)
    assert found[64]["tokens"] == found[16]["tokens"] == 20 * 80  # all but the first, and the end
    assert found[64]["split"] == "all"
    assert found[64]["loss"] != found[16]["loss"]


def test_bench_generate(folder):
    done = lmx(
        *("bench", "generate", "from=a", "batch=[1,3]", "prompt_length=20", "max_new_tokens=5", "repeats=1"),
        *("warmup=1", "output=json"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert [row["batch"] for row in json.loads(done.stdout)] == [1, 3]
