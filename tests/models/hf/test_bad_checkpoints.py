"""What is wrong with a checkpoint is said in one error that names it."""

import json
import struct

import jax
import numpy as np
import pytest

from lmx.config.errors import RequestError
from lmx.io.safetensors import find_tensors, read_header, read_rows
from lmx.models import hf
from lmx.models.hf.read import parse_config
from lmx.params import init, map_params
from lmx.run.load import find
from tests.models.hf.test_export import load as load_checkpoint
from tests.models.hf.test_export import write
from tests.support import build_model, model_config

SIZES = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 64, "mlp.d_ff": 48}


@pytest.fixture
def folder(tmp_path):
    """A sound little Llama in several shards."""
    config = model_config("llama3_8b", SIZES)
    model = build_model(config)
    params = init(model.specs, jax.random.key(0), np.float32)
    write(tmp_path / "llama", config, model, params, shard_bytes=20_000)
    return tmp_path / "llama"


def change(folder, **keys):
    raw = json.loads((folder / "config.json").read_text()) | keys
    (folder / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if v is not ...}))


def test_no_directory(tmp_path):
    with pytest.raises(RequestError, match="does not exist"):
        find(tmp_path / "none")


def test_no_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(RequestError, match=r"has no config\.json"):
        find(folder)


def test_neither_run_nor_checkpoint(tmp_path):
    with pytest.raises(RequestError, match=r"no run directory.*no HuggingFace directory"):
        find(tmp_path)


@pytest.mark.parametrize("kept", [4, 100, 5000])
def test_truncated_file(folder, kept):
    file = folder / "model-00002-of-00004.safetensors"
    file = file if file.is_file() else sorted(folder.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(RequestError, match=rf"{file.name}.*truncated"):
        load_checkpoint(folder)


def test_damaged_header(folder):
    file = sorted(folder.glob("*.safetensors"))[0]
    raw = bytearray(file.read_bytes())
    raw[8:12] = b"}}}}"
    file.write_bytes(raw)
    with pytest.raises(RequestError, match="header is damaged"):
        load_checkpoint(folder)


def test_missing_shard(folder):
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(RequestError, match=rf"index\.json names {gone.name}"):
        load_checkpoint(folder)


def test_tensor_that_its_shard_lacks(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.other.weight"] = index["weight_map"]["model.norm.weight"]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match=r"lacks model\.other\.weight"):
        load_checkpoint(folder)


def test_pickle_alone_is_not_read(folder):
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(RequestError, match=r"pytorch_model\.bin, a pickle(.|\n)*save_pretrained"):
        load_checkpoint(folder)


def test_weights_are_missing(folder):
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    with pytest.raises(RequestError, match=r"has no model\.safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"model_type": "mamba"}, r'model_type="mamba" is not known; known are llama'),
        ({"model_type": ...}, "lacks model_type"),
        ({"hidden_act": "mish"}, r'hidden_act="mish" is not supported in llama'),
        ({"rope_scaling": {"rope_type": "banana", "factor": 2.0}}, 'rope_type="banana" is not supported'),
        ({"rope_scaling": {"rope_type": "linear"}}, "lacks factor"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}, "factor": 2.0}},
            "beside them factor for all layers",
        ),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "twist": 1}}, "twist not known for linear"),
        ({"clip_qkv": 8.0}, r"clip_qkv=8\.0: not known in llama"),
        ({"hidden_size": ...}, "lacks hidden_size"),
        ({"hidden_size": "wide"}, r'hidden_size="wide", where a whole number above 0 belongs'),
        ({"num_attention_heads": 0}, "num_attention_heads=0, where a whole number above 0 belongs"),
        ({"num_hidden_layers": 2.0}, r"num_hidden_layers=2\.0, where"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "lacks factor"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_hidden_layers": 3}, r"tensors missing: model\.layers\.2"),
        ({"num_hidden_layers": 1}, r"tensors not known: model\.layers\.1"),
        ({"intermediate_size": 50}, r"has shape \[48, 32\], its config\.json makes it \[50, 32\]"),
        ({"attention_bias": True}, r"tensors missing: .*q_proj\.bias"),
    ],
)
def test_config_that_does_not_fit(folder, keys, match):
    change(folder, **keys)
    with pytest.raises(RequestError, match=match):
        load_checkpoint(folder)


def test_keys_that_ask_for_nothing_are_passed_over_and_said(folder, capsys):
    change(folder, rope_interleaved=False, clip_qkv=None, experts={}, transformers_js_config=0.0)
    load_checkpoint(folder)
    told = capsys.readouterr().err
    assert "not known in llama, and off: clip_qkv=null, experts={}, rope_interleaved=false" in told


def test_tied_head_that_differs(folder):
    change(folder, tie_word_embeddings=True)
    with pytest.raises(RequestError, match="stored head differs"):
        load_checkpoint(folder)


def test_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{,}")
    with pytest.raises(RequestError, match=r"config\.json: is no JSON"):
        load_checkpoint(folder)


def one_tensor(path, name, array, kind):
    header = json.dumps(
        {name: {"dtype": kind, "shape": array.shape, "data_offsets": [0, array.nbytes]}}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + array.tobytes())


def test_rows_of_every_type(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    for kind, dtype in (("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("F64", "float64")):
        stored = array.astype(np.dtype(dtype))
        one_tensor(tmp_path / "model.safetensors", "x", stored, kind)
        entry = find_tensors(tmp_path)["x"]
        np.testing.assert_array_equal(read_rows(entry, 1, 3).astype(np.float32), array[1:3])


def test_unknown_element_type(tmp_path):
    one_tensor(tmp_path / "model.safetensors", "x", np.zeros(4, np.uint8), "F4")
    with pytest.raises(RequestError, match="element type F4"):
        read_header(tmp_path / "model.safetensors")


def test_names_without_their_prefix_are_known(tmp_path):
    config = model_config("gpt2", {"n_layers": 2, "d_model": 16, "n_heads": 2, "vocab_size": 40})
    model = build_model(config)
    params = init(model.specs, jax.random.key(0), np.float32)
    write(tmp_path / "out", config, model, params)
    file = tmp_path / "out" / "model.safetensors"
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = raw[8 : 8 + length].replace(b"transformer.", b"").ljust(length)
    file.write_bytes(raw[:8] + header + raw[8 + length :])
    _, _, again = load_checkpoint(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_both_spellings_of_rope():
    sizes = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 64,
        "max_position_embeddings": 128,
    }
    for kind in ("linear", "dynamic", "yarn"):
        scaling = {"factor": 4.0, "original_max_position_embeddings": 32}
        older = {**sizes, "rope_theta": 5000.0, "rope_scaling": {"type": kind, **scaling}}
        newer = {**sizes, "rope_parameters": {"rope_type": kind, "rope_theta": 5000.0, **scaling}}
        assert parse_config(older, "older").config == parse_config(newer, "newer").config
        assert parse_config(newer, "newer").config.position.ropes["rope"].scaling.factor == 4.0


def test_shards_read_only_what_they_hold(folder):
    devices = jax.devices()
    if len(devices) < 2:
        pytest.skip("needs two devices")
    found, model, whole = load_checkpoint(folder)
    mesh = jax.make_mesh((2,), ("x",), devices=devices[:2])

    def split(param):
        parts = ["x" if a in ("ffn", "heads", "vocab") else None for a in param.axes]
        return jax.sharding.NamedSharding(mesh, jax.P(*parts))

    again = hf.load_params(folder, found, model.specs, map_params(split, model.specs), "float32")
    jax.tree.map(np.testing.assert_array_equal, whole, again)


@pytest.mark.parametrize(
    ("told", "ours"),
    [
        ({}, "gelu_tanh"),
        ({"hidden_act": "gelu"}, "gelu_tanh"),
        ({"hidden_act": "gelu", "hidden_activation": None}, "gelu_tanh"),
        ({"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}, "gelu_tanh"),
        ({"hidden_act": "silu", "hidden_activation": "silu"}, "silu"),
        ({"hidden_act": "gelu", "hidden_activation": "gelu"}, None),
        ({"hidden_act": "silu"}, None),
    ],
)
def test_the_activation_of_gemma_is_what_every_release_takes_it_for(told, ours):
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 1}
    raw = {**sizes, "model_type": "gemma", "intermediate_size": 48, "vocab_size": 64, "head_dim": 8, **told}
    if ours is None:
        with pytest.raises(RequestError, match=r"hidden_activation=.* differ"):
            parse_config(raw, "file")
    else:
        assert parse_config(raw, "file").config.mlp.activation == ours


def test_keys_that_the_code_of_a_family_passes_over_are_refused():
    """A Llama with half its heads rotated, a Gemma 3 with capped scores: transformers computes neither."""
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 1}
    sizes |= {"intermediate_size": 48, "vocab_size": 64, "head_dim": 8}
    half = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
    for told in (half, {"partial_rotary_factor": 0.5}):
        with pytest.raises(RequestError, match=r"partial_rotary_factor=0\.5 is not supported in llama"):
            parse_config({**sizes, "model_type": "llama", **told}, "file")
        found = parse_config({**sizes, "model_type": "phi3", **told}, "file")
        assert found.config.position.ropes["rope"].fraction == 0.5
    with pytest.raises(RequestError, match=r"attn_logit_softcapping=9\.0 is not supported in gemma3_text"):
        parse_config({**sizes, "model_type": "gemma3_text", "attn_logit_softcapping": 9.0}, "file")


def test_the_slope_of_gpt_oss_is_accepted_as_it_is_alone():
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 1}
    raw = {**sizes, "model_type": "gpt_oss", "intermediate_size": 48, "vocab_size": 64, "head_dim": 8}
    raw |= {"num_local_experts": 2, "num_experts_per_tok": 1}
    assert parse_config({**raw, "swiglu_alpha": 1.702}, "file").config == parse_config(raw, "file").config
    with pytest.raises(RequestError, match="swiglu_alpha=2"):
        parse_config({**raw, "swiglu_alpha": 2}, "file")
