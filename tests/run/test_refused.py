"""What a refused program would have held is read from what the compiler leaves behind."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from lmx.review.programs import Memory
from lmx.run.refused import dump, memory_of_allocations
from tests.support import ROOT

ALLOCATIONS = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <2 reduce_sum.5 @0> (size=512,offset=0): f32[]{:T(128)}
allocation 1: size 402653184, parameter 1, shape |f32[1024,98304]| at ShapeIndex {}:
 value: <33 w.1 @0> (size=402653184,offset=0): f32[1024,98304]{1,0:T(8,128)}
allocation 2: size 100663296, parameter 0, shape |f32[24576,1024]| at ShapeIndex {}, maybe-live-out:
 value: <29 x.1 @0> (size=100663296,offset=0): f32[24576,1024]{1,0:T(8,128)}
allocation 3: size 1024, output shape is |f32[]|, maybe-live-out:
 value: <36 convolution_reduce_fusion @0> (size=512,offset=0): f32[]{:T(128)}
allocation 6: size 4, color 2, preallocated-temp:
 value: <32 copy-start{2} @2> (size=4,offset=0): u32[]{:S(2)}
allocation 7: size 24159191552, preallocated-temp:
 value: <34 convolution_sine_fusion @0> (size=4831838208,offset=19327352832): bf16[24576,98304]{1,0:T(8,128)(2,1)}
"""


def test_memory_of_a_device_is_summed_by_what_it_is_for():
    temporaries = 24159191552 + 512
    expected = Memory(402653184 + 100663296, 1024, temporaries, 0, temporaries)
    assert memory_of_allocations(ALLOCATIONS) == expected


def test_the_program_is_the_largest_that_was_written():
    with dump(wanted=True) as found:
        assert found.options == {"xla_dump_to": str(found.folder)}
        assert found.program() is None
        assert found.memory() is None
        (found.folder / "module_1").mkdir()
        (found.folder / "a.after_optimizations.txt").write_text("HloModule small")
        (found.folder / "module_1" / "b.after_optimizations.txt").write_text("HloModule the_step, larger")
        (found.folder / "a.after_optimizations-buffer-assignment.txt").write_text(ALLOCATIONS)
        assert found.program() == "HloModule the_step, larger"
        assert found.memory() == memory_of_allocations(ALLOCATIONS)
    assert not found.folder.exists()
    with dump(wanted=False) as nothing:
        assert nothing.options == {}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_largest_tensors_of_a_program_that_does_not_fit_are_named(tmp_path):
    big = [
        "model.d_model=256",
        "model.n_heads=2",
        "model.n_kv_heads=2",
        "model.n_layers=2",
        "model.remat=none",
    ]
    big += ["trainer.sequence_length=1024", "trainer.global_batch_size=16384", "trainer.eval_batch_size=64"]
    big += [
        "trainer.compute_dtype=bfloat16",
        "optimizer=adamw",
        "mesh=fsdp",
        "topology=v5e:2x2",
        "fixes=none",
    ]
    command = [sys.executable, "-m", "lmx", "compile", "model=tiny", *big, f"report_cache={tmp_path}"]
    done = subprocess.run(
        [*command, "output=json"], cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    told = json.loads(done.stdout)
    names = [buffer["name"] for buffer in told["largest_buffers"]]
    assert names[0].startswith("y_BTF in into (layers/mlp.py:")
    assert any(name.startswith("q_BTNH, k_BTKH, v_BTKH in attention (layers/attention.py:") for name in names)
    assert told["temp_bytes"] > 3 * told["hbm_bytes"]
    assert 0 < told["argument_bytes"] < 1e8
    assert told["collectives"]
    assert names[0] in done.stderr
