"""An engine for a loaded model: parameters in the form that decoding reads fastest."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lmx.infer.engine import Engine
from lmx.infer.prepare import prepare
from lmx.run.build import build_model, for_inference, use_compile_cache
from lmx.run.load import Loaded
from lmx.sharding import make_mesh


def make_engine(loaded: Loaded, dtype: str, **knobs: Any) -> Engine:
    """The engine of a model; on one CPU device it takes the parameters over, and `loaded` keeps none."""
    use_compile_cache(loaded.config.trainer.compile_cache)
    model, params = loaded.model, loaded.params
    mesh = make_mesh(loaded.config.mesh)
    if mesh.size == 1 and mesh.devices.flat[0].platform == "cpu" and hasattr(model.config, "layer_loop"):
        unrolled = loaded.config.model.model_copy(update={"layer_loop": "unroll"})
        model, _ = build_model(
            for_inference(loaded.config).model_copy(update={"model": unrolled}), mesh, dtype
        )
        params = jax.block_until_ready(prepare(params, jnp.dtype(dtype), release=True))
        loaded.params = None
    tokenizer = loaded.tokenizer
    known = None if tokenizer is None else tokenizer.vocab_size
    return Engine(model, params, tokenizer, vocab_size=known, max_length=loaded.max_length, **knobs)


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Ids of a prompt, with the special tokens that a text begins with where the tokenizer adds them."""
    if tokenizer is None:
        raise ValueError(
            "prompt: the directory that from= names has no tokenizer, so text has no ids; give ids, "
            "prompt_tokens=[1,2,3], or copy the tokenizer.json of the model into it"
        )
    encode = getattr(tokenizer, "encode_prompt", tokenizer.encode)
    return [int(i) for i in encode(text)]
