"""What is written is read again as it was; what no family has is refused by name."""

import json

import jax
import numpy as np
import pytest

from lmx.config.errors import RequestError
from lmx.models import Decoder, hf
from lmx.models.hf.checkpoint import load_params, write_checkpoint
from lmx.models.hf.families import FAMILIES as KNOWN
from lmx.models.hf.fields import decided
from lmx.models.hf.read import parse_config
from lmx.params import init, map_params
from tests.models.hf.test_parity import FAMILIES, PARITY
from tests.support import build_model, model_config

HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def load(folder, dtype="float32"):
    found = hf.read_config(folder)
    model = build_model(found.config)
    places = map_params(lambda _: HERE, model.specs)
    return found, model, load_params(folder, found, model.specs, places, dtype)


def write(folder, config, model, params, *, dtype="float32", shard_bytes=10**9, length=64, prefer=None):
    folder.mkdir(exist_ok=True)
    more = {"max_position_embeddings": length}
    knobs = {"dtype": dtype, "shard_bytes": shard_bytes, "more": more, "prefer": prefer}
    return write_checkpoint(folder, config, model.specs, params, **knobs)


@pytest.mark.skipif(not PARITY.is_dir(), reason="the parity fixtures are not here")
@pytest.mark.parametrize("name", FAMILIES)
def test_written_and_read_again(name, tmp_path):
    found, model, params = load(PARITY / name)
    length = found.raw.get("max_position_embeddings", 64)
    knobs = {"shard_bytes": 40_000, "length": length, "prefer": found.family.model_type}
    assert write(tmp_path / "out", found.config, model, params, **knobs) == found.family
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    again, _, others = load(tmp_path / "out")
    assert decided(again.config) == decided(found.config)
    jax.tree.map(np.testing.assert_array_equal, params, others)


@pytest.mark.parametrize(
    ("option", "family"), [("gpt2", "gpt2"), ("llama3_8b", "llama"), ("olmo2_7b", "olmo2")]
)
def test_options_of_this_project_have_a_family(option, family, tmp_path):
    sizes = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 4, "vocab_size": 64, "mlp.d_ff": 48}
    config = model_config(option, sizes)
    model = build_model(config)
    params = init(model.specs, jax.random.key(0), np.float32)
    assert write(tmp_path / "out", config, model, params).model_type == family
    found, _, again = load(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert found.family.model_type == family


def test_half_precision_keeps_what_it_can(tmp_path):
    config = model_config(
        "llama3_8b", {"n_layers": 1, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "mlp.d_ff": 48}
    )
    config = config.model_copy(update={"vocab_size": 64})
    model = build_model(config)
    params = init(model.specs, jax.random.key(0), np.float32)
    for dtype in ("bfloat16", "float16"):
        write(tmp_path / dtype, config, model, params, dtype=dtype)
        _, _, again = load(tmp_path / dtype)
        jax.tree.map(
            lambda a, b, dtype=dtype: np.testing.assert_array_equal(a.astype(dtype).astype("float32"), b),
            params,
            again,
        )


def test_parts_that_no_family_has_are_named(tmp_path):
    config = model_config("tiny")
    model = build_model(config)
    params = init(model.specs, jax.random.key(0), np.float32)
    with pytest.raises(RequestError, match=r"no HuggingFace family has.*embedding_norm.*model=qwen3_0p6b"):
        write(tmp_path / "out", config, model, params)
    assert not list((tmp_path / "out").iterdir())


def test_the_reference_library_reads_what_was_written(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    config = model_config("gpt2", {"n_layers": 1, "d_model": 16, "n_heads": 2, "vocab_size": 40})
    model = build_model(config)
    params = init(model.specs, jax.random.key(0), np.float32)
    write(tmp_path / "out", config, model, params)
    tensors = safetensors.load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(tensors["transformer.wte.weight"], params["embedding"]["tokens"])
    assert tensors["transformer.h.0.attn.c_attn.weight"].shape == (16, 48)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["GPT2LMHeadModel"]


def test_a_class_that_derives_from_the_decoder_is_not_in_the_way(tmp_path):
    class Derived(Decoder):
        pass

    raw = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    raw |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "rms_norm_eps": 1e-6}
    raw |= {"rope_theta": 1e4, "hidden_act": "silu", "tie_word_embeddings": True}
    assert type(parse_config(raw, tmp_path).config) is Decoder
    assert issubclass(Derived, Decoder)


def test_a_gpt_oss_without_yarn_says_so(tmp_path):
    config = model_config("gpt_oss_20b", {"n_layers": 2, "position.ropes.rope.scaling": None})
    written = KNOWN["gpt_oss"].write(config)
    assert written["rope_scaling"] == {"rope_type": "default"}
    published = KNOWN["gpt_oss"].write(model_config("gpt_oss_20b", {}))
    assert published["rope_scaling"]["rope_type"] == "yarn"
    for left_out in ({}, {"rope_scaling": None}):  # what the library does there
        told = {k: v for k, v in published.items() if k != "rope_scaling"} | left_out
        read = parse_config(told | {"model_type": "gpt_oss"}, tmp_path)
        assert read.config.position == model_config("gpt_oss_20b", {}).position
