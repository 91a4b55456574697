"""Models that also see: their text model is read from either layout of names, the rest is left aside and named."""

import json

import jax
import numpy as np
import pytest

from lmx.config.errors import RequestError
from lmx.data.pretrained import IdsOnly
from lmx.io.safetensors import Written, find_tensors, write_tensors
from lmx.models.hf.fields import decided
from lmx.models.hf.read import parse_config
from lmx.params import init
from tests.models.hf.test_export import load, write
from tests.support import build_model, model_config

SIZES = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 64, "mlp.d_ff": 48}
OLD = {"model.": "language_model.model.", "lm_head.": "language_model.lm_head.", "seen.": ""}
NEW = {"model.": "model.language_model.", "lm_head.": "lm_head.", "seen.": "model."}
KINDS = {
    "gemma3": ("gemma3_1b", "vision_tower", {"mm_tokens_per_image": 4}),
    "mistral3": ("mistral_7b", "vision_tower", {"spatial_merge_size": 2}),
    "llama4": ("llama4_scout", "vision_model", {"boi_token_index": 3}),
}


def wrapped(folder, kind, layout, *, more=(), **keys):
    """A checkpoint of the text model at `folder`/text, and the same inside one that also sees at `folder`/whole."""
    option, tower, told = KINDS[kind]
    sizes = SIZES | ({"moe.d_ff": 48, "moe.shared_d_ff": 48, "moe.n_experts": 2} if kind == "llama4" else {})
    config = model_config(option, sizes)
    model = build_model(config)
    params = init(model.specs, jax.random.key(0), np.float32)
    write(folder / "text", config, model, params)
    entries = find_tensors(folder / "text")
    seen = {f"seen.{tower}.patch.weight": (3, 3), "seen.multi_modal_projector.linear.weight": (2, 2)}
    tensors = [Written(n, e.shape, e.dtype, lambda e=e: e.rows(0, e.shape[0])) for n, e in entries.items()]
    tensors += [
        Written(n, s, np.dtype(np.float32), lambda s=s: np.ones(s, np.float32)) for n, s in seen.items()
    ]
    (folder / "whole").mkdir()
    renamed = [
        t._replace(
            name=next(new + t.name.removeprefix(old) for old, new in layout.items() if t.name.startswith(old))
        )
        for t in tensors
    ]
    renamed += [t._replace(name=name) for t, name in zip(tensors, more, strict=False)]
    write_tensors(folder / "whole", renamed, shard_bytes=10**9)
    text = json.loads((folder / "text" / "config.json").read_text())
    raw = {"model_type": kind, "text_config": text, "vision_config": {"hidden_size": 8}, **told, **keys}
    (folder / "whole" / "config.json").write_text(json.dumps(raw))
    return params, raw


@pytest.mark.parametrize("layout", [OLD, NEW])
@pytest.mark.parametrize("kind", KINDS)
def test_the_text_model_is_read_and_the_rest_is_named(kind, layout, tmp_path, capsys):
    params, _ = wrapped(tmp_path, kind, layout)
    found, _, again = load(tmp_path / "whole")
    assert found.length == 64
    jax.tree.map(np.testing.assert_array_equal, params, again)
    told = capsys.readouterr().err
    assert f"of a {kind} alone" in told
    assert f"1 tensors of {KINDS[kind][1]}" in told
    assert "1 tensors of multi_modal_projector" in told


def test_what_is_neither_text_nor_vision_is_refused(tmp_path):
    _, raw = wrapped(tmp_path, "gemma3", OLD, more=["audio_tower.weight"])
    with pytest.raises(RequestError, match=r"tensors not known: audio_tower\.weight"):
        load(tmp_path / "whole")
    with pytest.raises(RequestError, match=r"audio_config.* not known in gemma3"):
        parse_config(raw | {"audio_config": {"hidden_size": 8}}, "file")
    with pytest.raises(RequestError, match=r"model_type.*\"qwen2\" is not supported in gemma3"):
        parse_config(raw | {"text_config": {"model_type": "qwen2"}}, "file")


def test_heads_tied_by_the_file_around(tmp_path):
    params, raw = wrapped(tmp_path, "mistral3", NEW, tie_word_embeddings=True)
    # Since transformers 5 that is written by models whose head is not tied as well: a stored one counts.
    found, _, again = load(tmp_path / "whole")
    assert not found.config.tie_embeddings
    np.testing.assert_array_equal(params["head"], again["head"])
    del raw["text_config"]["tie_word_embeddings"]
    assert parse_config(raw, "file").config.tie_embeddings
    raw["text_config"]["tie_word_embeddings"] = True
    with pytest.raises(RequestError, match="differ"):
        parse_config(raw | {"tie_word_embeddings": False}, "file")


def test_a_gemma3_config_of_few_words():
    # As google/gemma-3-4b-it has it: all else is the family's.
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    found = parse_config({"model_type": "gemma3", "text_config": text, "mm_tokens_per_image": 256}, "file")
    published = decided(model_config("gemma3_4b"))
    assert {k: v for k, v in decided(found.config).items() if published[k] != v} == {}
    assert found.context == 131072


def test_end_tokens_of_the_text_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama4", "text_config": {"eos_token_id": [5, 7]}}')
    assert IdsOnly(tmp_path, vocab_size=9).eos_ids == (5, 7)
