"""`lmx compile`: the program that a run would compile, what is said of it, and requests that cannot be."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from lmx.config.compose import Composer
from lmx.run.compile_config import Compile, TuneMemory
from lmx.run.config import TrainConfig
from tests.refusals import refusals
from tests.support import CONF, ROOT, read_option

SMALL = [
    "model.n_layers=2",
    "model.d_model=64",
    "model.n_heads=2",
    "trainer.sequence_length=64",
    "trainer.global_batch_size=16",
    "model.layer_loop=scan",
]
KEYS = {
    *("devices", "device_kind", "argument_bytes", "temp_bytes", "peak_bytes", "hbm_bytes", "headroom"),
    *("largest_buffers", "collectives", "flops_per_step", "compile_time"),
}
ENVIRONMENT = os.environ | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}


def lmx(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "lmx", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
    )


def test_all_groups_are_those_of_training():
    groups = {}
    for command in ("train", "compile", "tune_memory"):
        lines = (CONF / f"{command}.yaml").read_text().splitlines()
        groups[command] = [
            line
            for line in lines
            if line.startswith("  - ") and "hydra/" not in line and "distributed" not in line
        ]
    assert groups["compile"] == groups["tune_memory"] == groups["train"]


SAME = """
import jax, re, sys
devices = int(sys.argv.pop())
jax.config.update("jax_num_cpu_devices", devices)
import numpy as np
from lmx.config.compose import Composer
from lmx.data.dataset import row
from lmx.infer.requests import Request
from lmx.run.build import build, build_model, for_inference, make_state
from lmx.run.compile import build_for, lower, steps_of, topology_devices
from lmx.run.compile_config import Compile
from lmx.run.config import TrainConfig
from lmx.run.engine import make_engine
from lmx.run.judge import Judge
from lmx.run.length import total_steps
from lmx.run.load import Loaded
from lmx.run.prepare import read_data
from lmx.run.programs import EvalProgram, StepPrograms

overrides = sys.argv[1:]
config = Composer("train", TrainConfig, overrides=overrides).check(overrides)[0].config
tokenizer, dataset = read_data(config)[:2]
parts = build(config, total_steps=total_steps(config.trainer, examples_per_epoch=0))
run = StepPrograms(config, parts, row(dataset.train, 0))._programs[False].result()

kept = {}

def keeping(name, lowers):
    # The program that a call of `lowers` runs, compiled for just these arguments.
    def call(*arguments):
        if name not in kept:
            kept[name] = lowers.lower(*arguments).compile()
        return lowers(*arguments)
    return call

of = EvalProgram.of
def recorded(self, token_bytes):
    self._step = keeping("eval", self._step)
    return of(self, token_bytes)
EvalProgram.of = recorded
judge = Judge(config, parts, tokenizer, dataset)
state = make_state(config, parts)
judge.evaluate(state)

model, kernels = build_model(for_inference(config), parts.mesh, "float32")
loaded = Loaded(config, model, kernels, state.params, tokenizer, 0)
engine = make_engine(loaded, "float32")
engine._decode = keeping("decode", engine._decode)
results = engine.run([Request(tokens=[1, 2, 3], max_new_tokens=50)] * 8)
assert len(results[0].tokens) == 50

words = [*overrides, f"topology=cpu:{devices}", "decode.batch=8", "decode.length=64"]
config = Composer("compile", Compile, overrides=words).check(words)[0].config
parts = build_for(config, topology_devices(config))
ahead = lower(config, parts, "train").compile()
assert parts.mesh.size == devices
assert ("all-reduce" in ahead.as_text()) == (devices > 1)

def instructions(compiled):
    # All but where in the source a call came from, for the two come from different lines of this program, and the
    # numbers that jax gives to functions which it has met before: names are counted as they appear.
    text, seen = re.sub(r", metadata=\\{[^}]*\\}", "", compiled.as_text()), {}
    text = re.sub(r"(?m) \\(.*\\) -> .* \\{$", " {", text[text.index("\\n%") :])  # parameters follow
    return re.sub(r"%[\\w.-]+", lambda m: seen.setdefault(m[0], f"%{len(seen)}"), text)


assert instructions(ahead) == instructions(run)
assert len(instructions(run)) > 10_000
for name in ("eval", "decode"):
    ahead = instructions(lower(config, parts, name).compile())
    assert len(ahead) > 10_000
    assert ahead == instructions(kept[name]), name
print("the same")
"""


@pytest.mark.parametrize(
    ("more", "devices"),
    [
        (["mesh=single"], 1),
        pytest.param(
            ["mesh=fsdp_tp", "data.packing=concat", "trainer.accumulation=2"], 8, marks=pytest.mark.slow
        ),
    ],
)
def test_the_programs_are_those_that_a_run_and_generation_compile(more, devices, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SAME, *SMALL, "data.max_bytes=4M", *more, str(devices)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout.strip() == "the same", done.stderr[-3000:]


def test_a_report_has_its_keys_and_comes_from_the_cache_again(tmp_path):
    words = [*SMALL, "topology=cpu:8", "mesh=fsdp", f"report_cache={tmp_path}/reports", "output=json"]
    words.append("programs=[train,eval,decode]")
    first = lmx("compile", *words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert set(told) >= KEYS
    assert set(told["programs"]) == {"train", "eval", "decode"}
    assert told["devices"] == 8
    assert told["peak_bytes"] == told["argument_bytes"] + told["output_bytes"] + told["temp_bytes"]
    names = [b["name"] for b in told["largest_buffers"]]
    temporary = [b["name"] for b in told["largest_buffers"] if b["kind"] == "temporary"]
    parts = ("layers.0.", "head", "embedding", "gradient of ")
    assert sum(name.startswith(parts) for name in temporary) >= 0.8 * len(temporary), temporary
    assert 0 < len(names) <= 10
    assert {c["axes"] for c in told["collectives"]} == {"fsdp"}
    assert {"all-gather", "all-reduce"} <= {c["kind"] for c in told["collectives"]}
    # 3 products forward and backward of every weight, and causal attention.
    assert told["flops_per_step"] == pytest.approx(3 * told["programs"]["eval"]["flops_per_step"] * 16 / 8)
    again = json.loads(lmx("compile", *words, cwd=tmp_path).stdout)
    assert again["cached"]
    assert {**again, "cached": 0, "programs": 0} == {**told, "cached": 0, "programs": 0}


REFUSED = [
    (["topology=v5e:3x3"], "v5e:2x4"),
    (["topology=cpu:8"], "8 devices"),
    (["topology=cpu:8", "mesh=fsdp", "mesh.axes.fsdp=3"], "fsdp 8 fits: mesh.axes.fsdp=auto"),
    (["topology=cpu:8", "mesh=fsdp_tp", "mesh.axes.tensor=4", "model.n_kv_heads=1"], "mesh.rules.kv_heads"),
    (["topology=cpu:8", "mesh=fsdp", "kernels.attention=splash"], "splash runs on tpu only"),
    (["topology=cpu:8", "mesh=fsdp", "mesh.rules.depth=fsdp"], "no logical axis 'depth'"),
    (["topology=cpu:8", "mesh=fsdp", "programs=[decode]", "decode.batch=3"], "set decode.batch=4"),
    (["topology=cpu:8", "mesh=fsdp", "trainer.global_batch_size=12"], "batch"),
    (["mesh=fsdp"], "topology"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    requests = [["compile", *SMALL, *words] for words, _ in REFUSED]
    return refusals(requests, cwd=tmp_path_factory.mktemp("refused"), environment=ENVIRONMENT)


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[" ".join(words) for words, _ in REFUSED])
def test_requests_that_cannot_be(number, answers):
    code, said = answers[number]
    assert code == 2, said
    assert REFUSED[number][1] in said
    assert "Traceback" not in said


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@needs_libtpu
def test_a_training_step_for_tpus(tmp_path):
    done = lmx(
        "compile", *SMALL, "topology=v5e:2x2", "mesh=fsdp", "report_cache=null", "output=json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["device_kind"] == "TPU v5 lite"
    assert told["devices"] == 4
    assert 0 < told["peak_bytes"] < told["hbm_bytes"]
    assert told["fits"]
    assert told["headroom"] == pytest.approx(1 - told["peak_bytes"] / told["hbm_bytes"])
    assert {"all-gather", "reduce-scatter"} <= {c["kind"] for c in told["collectives"]}
    assert any(b["name"].startswith("params.") for b in told["largest_buffers"])


@needs_libtpu
@pytest.mark.slow
def test_what_does_not_fit_is_named_and_a_change_that_fits(tmp_path):
    big = ["model=llama3p2_1b", "model.n_layers=2", "model.remat=none", "trainer.sequence_length=8192"]
    big += ["trainer.global_batch_size=64", "trainer.compute_dtype=bfloat16", "mesh=fsdp", "topology=v5e:2x2"]
    done = lmx("compile", *big, f"report_cache={tmp_path}/reports", cwd=tmp_path)
    assert done.returncode == 1
    assert "does not fit" in done.stderr
    fix = next(line for line in done.stderr.splitlines() if "fits, with" in line).split(": ", 1)[1].split()
    again = lmx("compile", *big, *fix, f"report_cache={tmp_path}/reports", "output=json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["fits"]


def test_the_roots_are_those_of_training_and_more():
    assert set(TrainConfig.model_fields) < set(Compile.model_fields) < set(TuneMemory.model_fields)
    words = ["topology=cpu:1"]
    composed, problems = Composer("compile", Compile, overrides=words).check(words)
    assert not problems
    assert composed is not None
    assert read_option("trainer", "default")["steps"] == composed.config.trainer.steps
