"""Compiled programs as text: loops, collectives, memory, names. Real programs of eight CPU devices, and TPU's forms."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lmx.review.buffers import arguments, peak_of
from lmx.review.collectives import collectives, replica_groups
from lmx.review.hlo import Shape, parse_shape
from lmx.review.hlo_text import parse
from lmx.review.names import Namer, argument_name, assigned, shapes_of_parameters
from lmx.review.programs import needed_bytes, read_program
from lmx.review.scopes import part_of
from tests.support import ROOT

MESH = {"data": 2, "fsdp": 4}
LAYERS, WIDTH, ROWS = 6, 256, 1024


@pytest.fixture(scope="module")
def programs():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.review.compiled_on_cpu"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
    )
    return json.loads(done.stdout.splitlines()[-1])


def by_kind(text):
    return {(c.kind, c.axes): c for c in collectives(parse(text), MESH)}


def test_loops_count_as_often_as_they_run(programs):
    module = parse(programs["step"]["text"])
    assert module.unknown_loops == 0
    assert LAYERS in module.executions.values()
    found = by_kind(programs["step"]["text"])
    weight = WIDTH * WIDTH * 4
    # Each layer's weights are gathered forward and backward: 3/4 of them come from others.
    gathered = found["all-gather", "fsdp"]
    assert gathered.count == 2 * LAYERS
    assert gathered.bytes == 2 * LAYERS * weight * 3 // 4
    # The gradient is summed over both axes, in whatever form.
    summed = sum(c.bytes for (kind, axes), c in found.items() if kind in ("all-reduce", "reduce-scatter"))
    assert summed >= LAYERS * weight * 3 // 4
    assert any("data" in axes for kind, axes in found if kind in ("all-reduce", "reduce-scatter"))


def test_permutations_in_a_loop(programs):
    found = by_kind(programs["around"]["text"])
    ring = found["collective-permute", "fsdp"]
    assert ring.count == 3
    assert ring.bytes == 3 * 16 * 64 * 4


def test_exchanges_and_sums_over_several_axes(programs):
    found = by_kind(programs["exchange"]["text"])
    part = 16 * 64 * 4
    assert found["all-to-all", "fsdp"].bytes == part * 3 // 4
    assert found["all-reduce", "data+fsdp"].bytes == 2 * part * 7 // 8


SLICES = """HloModule step, is_scheduled=true, num_partitions=64

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %token = token[] after-all()
SENDS
  ROOT %copy = f32[8,128]{1,0} copy(%x)
}
"""


@pytest.mark.parametrize(
    ("transfer", "target", "kind", "axes", "sent"),
    [
        ("ALL_REDUCE", '"{1,2,3,4}x{0:7}"', "all-reduce", "data+stage", 2 * 3 / 4),
        ("ALL_REDUCE", '"{1,3}x{0:7}"', "all-reduce", "data", 2 * 1 / 2),
        ("ALL_GATHER", '"{1,2,3,4}x{0:7}"', "all-gather", "data+stage", 3),
        ("REDUCE_SCATTER", '"{1,2}x{0:7}"', "reduce-scatter", "stage", 1 / 2),
        ("ALL_TO_ALL", '"{1,2,3,4}x{0:7}"', "all-to-all", "data+stage", 3 / 4),
        ("ONE_TO_ONE", "{{100000->200000},{200000->300000}}", "collective-permute", "data+stage", 1),
    ],
)
def test_between_slices_a_send_is_what_it_stands_for(transfer, target, kind, axes, sent):
    line = (
        "  %send = (f32[8,128]{1,0}, u32[], token[]) send(%x, %token), channel_id=5, is_host_transfer=true, "
        'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
        f'_xla_megascale_target={target},_xla_megascale_transfer_type="{transfer}"}}\n'
        "  %done = token[] send-done(%send), channel_id=5, is_host_transfer=true"
    )
    module = parse(SLICES.replace("SENDS", line))
    (found,) = collectives(module, {"data": 2, "stage": 2, "fsdp": 16}, {"data": 2, "stage": 2})
    assert (found.kind, found.axes, found.count) == (kind, axes, 1)
    assert found.bytes == sent * 8 * 128 * 4


def test_a_send_to_the_host_is_no_collective():
    line = "  %send = (f32[8,128]{1,0}, u32[], token[]) send(%x, %token), channel_id=5, is_host_transfer=true"
    assert collectives(parse(SLICES.replace("SENDS", line)), MESH) == []


def test_memory_is_that_of_the_compiler(programs):
    for name in ("step", "exchange"):
        told = programs[name]
        module = parse(told["text"])
        assert sum(b.bytes for b in arguments(module)) == told["arguments"]
        assert peak_of(module, module.entry).bytes == pytest.approx(told["temp"], rel=0.1, abs=2**16)


def test_buffers_have_the_names_of_tensors(programs):
    module = parse(programs["step"]["text"])
    namer = Namer(module, shapes_of_parameters(module))
    assert {namer(b) for b in arguments(module)} == {"params.w", "batch"}
    found = read_program(programs["step"]["text"], MESH)
    names = " ".join(t.name for t in found.buffers)
    assert "w, gathered" in names
    assert "gradient of w" in names
    assert len(found.buffers) <= 10
    assert [t.bytes for t in found.buffers] == sorted((t.bytes for t in found.buffers), reverse=True)


def test_a_donated_argument_is_no_temporary(programs):
    module = parse(programs["step"]["text"])
    made = {b.instruction for b in peak_of(module, module.entry).buffers}
    assert module.aliased_outputs() == {(): 0} or module.aliased_outputs() == {(0,): 0}
    assert module.entry.root.name not in made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f32[3,5]{1,0}", Shape("f32", (3, 5), 60, 0)),
        ("f32[3,5]{1,0:T(8,128)}", Shape("f32", (3, 5), 8 * 128 * 4, 0)),
        ("bf16[16,128]{1,0:T(8,128)(2,1)S(1)}", Shape("bf16", (16, 128), 4096, 1)),
        ("bf16[4,8,64]{0,2,1:T(8,128)(2,1)}", Shape("bf16", (4, 8, 64), 8 * 64 * 128 * 2, 0)),
        ("s32[]{:T(128)}", Shape("s32", (), 512, 0)),
        ("pred[7]{0}", Shape("pred", (7,), 7, 0)),
        ("s4[9]{0:E(4)}", Shape("s4", (9,), 5, 0)),
    ],
)
def test_sizes_with_the_padding_of_tiles(text, expected):
    assert parse_shape(text) == expected


def test_tuples_are_nested():
    found = parse_shape("((f32[2]{0}), bf16[3]{0}, /*index=2*/(s32[], u8[4]{0}))")
    assert [str(s) for s in (found[0][0], found[1], found[2][1])] == ["f32[2]", "bf16[3]", "u8[4]"]


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=2,'b'=4] {'b'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("{}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ],
)
def test_groups_of_devices(text, groups):
    found = replica_groups(text, 8)
    assert sorted(sorted(g) for g in found) == sorted(groups)


TPU = """\
HloModule jit_f, is_scheduled=true, num_partitions=8

FileNames
1 "nowhere.py"

%all-reduce-scatter.1 (input: f32[64,128]) -> f32[16,128] {
  %input = f32[64,128]{1,0:T(8,128)} parameter(0)
  %all-reduce.1 = f32[64,128]{1,0:T(8,128)} all-reduce(%input), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}
  %zero = s32[]{:T(128)} constant(0)
  ROOT %dynamic-slice.1 = f32[16,128]{1,0:T(8,128)} dynamic-slice(%all-reduce.1, %zero, %zero)
}

%body (carry: (s32[], f32[64,128])) -> (s32[], f32[64,128]) {
  %carry = (s32[]{:T(128)}, f32[64,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %x = f32[64,128]{1,0:T(8,128)} get-tuple-element(%carry), index=1
  %one = s32[]{:T(128)} constant(1)
  %nothing = f32[]{:T(128)} constant(0)
  %zeros = f32[64,128]{1,0:T(8,128)} broadcast(%nothing), dimensions={}
  %scattered = f32[16,128]{1,0:T(8,128)} fusion(%x), calls=%all-reduce-scatter.1, metadata={op_name="jit(f)/dot"}
  %own = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%zeros, %scattered, %i, %i)
  %gathered = f32[64,128]{1,0:T(8,128)} all-reduce(%own), channel_id=2, replica_groups=[2,4]<=[8], attributes={said="of
two lines }
"}
  %next = s32[]{:T(128)} add(%i, %one)
  ROOT %out = (s32[]{:T(128)}, f32[64,128]{1,0:T(8,128)}) tuple(%next, %gathered)
}

%condition (carry.1: (s32[], f32[64,128])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, f32[64,128]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  %limit = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (x: f32[64,128]) -> f32[64,128] {
  %x.1 = f32[64,128]{1,0:T(8,128)} parameter(0), metadata={op_name="x"}
  %start = s32[]{:T(128)} constant(1)
  %copied = s32[]{:T(128)} copy(%start)
  %begin = (s32[]{:T(128)}, f32[64,128]{1,0:T(8,128)}) tuple(%copied, %x.1)
  %loop = (s32[]{:T(128)}, f32[64,128]{1,0:T(8,128)}) while(%begin), condition=%condition, body=%body
  ROOT %result = f32[64,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


FUSED = """\
%own_part (buffer: f32[64,128], part: f32[16,128], at: s32[]) -> f32[64,128] {
  %buffer = f32[64,128]{1,0:T(8,128)} parameter(0)
  %part = f32[16,128]{1,0:T(8,128)} parameter(1)
  %at = s32[]{:T(128)} parameter(2)
  ROOT %written = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%buffer, %part, %at, %at)
}

%body ("""
OWN = "dynamic-update-slice(%zeros, %scattered, %i, %i)"


@pytest.mark.parametrize("zeros", ["%zeros", "%x"])
def test_what_a_fusion_writes_into_is_looked_up_where_the_fusion_stands(zeros):
    text = TPU.replace("%body (", FUSED, 1)
    text = text.replace(OWN, f"fusion({zeros}, %scattered, %i), calls=%own_part")
    kind = "all-gather" if zeros == "%zeros" else "all-reduce"
    assert set(by_kind(text)) == {("reduce-scatter", "fsdp"), (kind, "fsdp")}


def test_all_reduces_that_gather_or_scatter_are_told_from_sums():
    found = by_kind(TPU)
    assert set(found) == {("reduce-scatter", "fsdp"), ("all-gather", "fsdp")}
    array = 64 * 128 * 4
    for one in found.values():
        assert one.count == 4  # from 1 to below 5, by the loop's own condition
        assert one.bytes == 4 * array * 3 // 4
    assert found["reduce-scatter", "fsdp"].largest == "jit(f)/dot"


def test_a_loop_whose_rounds_were_joined_in_twos_counts_half_as_many():
    text = TPU.replace("%one = s32[]{:T(128)} constant(1)", "%one = s32[]{:T(128)} constant(2)")
    assert {one.count for one in by_kind(text).values()} == {2}


BEGUN = """\
%begun (whole: f32[64,128]) -> f32[64,128] {
  %whole = f32[64,128]{1,0:T(8,128)} parameter(0)
  ROOT %gathered.0 = f32[64,128] all-gather(%whole), channel_id=2, replica_groups=[2,4]<=[8], attributes={chain_id="0"}
}

%body ("""


def test_an_asynchronous_gather_of_which_a_loop_does_parts_is_one():
    """Its start stands before the loop, and the loop's body has the whole of it in its text once more."""
    part = 'all-gather(%own), channel_id=2, replica_groups=[2,4]<=[8], frontend_attributes={chain_id="0"}, '
    text = TPU.replace("all-reduce(%own), channel_id=2, replica_groups=[2,4]<=[8], ", part)
    text = text.replace("%body (", BEGUN, 1)
    copied = "  %copied = s32[]{:T(128)} copy(%start)\n"
    text = text.replace(copied, copied + "  %begun.1 = f32[64,128]{1,0} fusion(%x.1), calls=%begun\n")
    one = by_kind(text)["all-gather", "fsdp"]
    assert (one.count, one.bytes) == (1, 64 * 128 * 4 * 3 // 4)
    assert by_kind(text)["reduce-scatter", "fsdp"].count == 4


@pytest.mark.parametrize(
    ("op_name", "name"),
    [
        ("state.params['layers'][0]['mlp']['up']", "params.layers.0.mlp.up"),
        ("state.opt_state.inner[1]['embedding']['tokens']", "opt_state.inner.1.embedding.tokens"),
        ("batch.tokens", "batch.tokens"),
    ],
)
def test_argument_names(op_name, name):
    assert argument_name(op_name) == name


def test_the_variable_of_a_statement_over_several_lines(tmp_path):
    path = tmp_path / "source.py"
    path.write_text(
        "def f(x):\n    scores_TS = product(\n        x,\n        x,\n    )\n    return scores_TS\n"
    )
    assert assigned(str(path), 4) == "scores_TS"
    assert assigned(str(path), 6) is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "total memory required for HLO temporaries (17.50G) exceeds available HBM (15.75G)",
            int(17.5 * 2**30),
        ),
        (
            "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.00G of 15.75G hbm.",
            20 * 2**30,
        ),
        ("something else", None),
    ],
)
def test_what_the_compiler_wanted(message, expected):
    assert needed_bytes(message) == expected


CALLS = """HloModule jit_outer, is_scheduled=true

FileNames
1 "/place/of/file.py"

FunctionNames
1 "<module>"
2 "outer"
3 "middle"
4 "inner"

FileLocations
1 {file_name_id=1 function_name_id=1 line=9 end_line=9 column=2 end_column=65}
2 {file_name_id=1 function_name_id=2 line=8 end_line=8 column=11 end_column=14}
3 {file_name_id=1 function_name_id=2 line=7 end_line=7 column=8 end_column=17}
4 {file_name_id=1 function_name_id=3 line=5 end_line=5 column=11 end_column=21}
5 {file_name_id=1 function_name_id=4 line=3 end_line=3 column=11 end_column=21}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=2}
4 {file_location_id=4 parent_frame_id=4}
5 {file_location_id=5 parent_frame_id=5}

ENTRY %main.1 (x.1: f32[64,64]) -> f32[64,64] {
  %x.1 = f32[64,64]{1,0} parameter(0), metadata={op_name="x"}
  ROOT %sine.1 = f32[64,64]{1,0} sine(%x.1), metadata={op_name="jit(outer)/sin" stack_frame_id=5}
}
"""


def test_who_called_what_made_a_value():
    """As XLA writes it for `inner` called by `middle` in line 5, that by `outer` in line 7, that by line 9."""
    module = parse(CALLS)
    stack = [(frame.function, frame.line) for frame in module.stack(module.entry.root)]
    assert stack == [("inner", 3), ("middle", 5), ("outer", 7), ("<module>", 9)]


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jit(step)/jit(main)/while/body/jvp(layers.0)/mlp/up/bd,df->bf/dot_general", "layers.0.mlp.up"),
        (
            "jit(step)/transpose(jvp(layers.2))/while/body/checkpoint/rematted_computation/layers.1/attention/out/mul",
            "layers.1.attention.out",
        ),
        ("jit(step)/jvp(head)/while/body/dot_general", "head"),
        ("jit(step)/transpose(jvp(embedding))/scatter-add", "embedding"),
        (
            "jit(step)/jvp(layers.0)/moe/experts/shard_map/experts/gate/ragged_dot",
            "layers.0.moe.experts.gate",
        ),
        ("jit(step)/optimizer/mul", ""),
    ],
)
def test_the_part_of_the_model_that_an_operation_is_of(op_name, part):
    assert part_of(op_name) == part
