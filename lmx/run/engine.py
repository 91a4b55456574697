"""An engine for a loaded model: parameters in the form that decoding reads fastest."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmx import params as param_tree
from lmx.infer.engine import Engine
from lmx.infer.prepare import prepare
from lmx.models.model import Model
from lmx.run.build import build_model, for_inference, use_compile_cache
from lmx.run.config import TrainConfig
from lmx.run.load import Loaded
from lmx.run.programs import options_for
from lmx.sharding import make_mesh


def make_engine(loaded: Loaded, dtype: str, **knobs: Any) -> Engine:
    """The engine of a model; on one CPU device it takes the parameters over, and `loaded` keeps none."""
    use_compile_cache(loaded.config.trainer.compile_cache)
    params, mesh = loaded.params, make_mesh(loaded.config.mesh)
    model = _model(loaded.config, mesh, dtype)
    if _prepares(model, mesh):
        params = jax.block_until_ready(prepare(params, jnp.dtype(dtype), release=True))
        loaded.params = None
    tokenizer = loaded.tokenizer
    knobs |= {"max_length": loaded.max_length, "compiler_options": options_for(loaded.config, mesh)}
    return Engine(
        model, params, tokenizer, vocab_size=None if tokenizer is None else tokenizer.vocab_size, **knobs
    )


def abstract_engine(config: TrainConfig, mesh: Mesh, dtype: str) -> Engine:
    """The engine that `make_engine` makes of a model of this configuration, for programs that are only compiled."""
    model, dtype_ = _model(config, mesh, dtype), jnp.dtype(dtype)
    shardings = param_tree.shardings(model.specs, mesh, config.mesh.rules)
    params = param_tree.abstract(model.specs, dtype_, shardings)
    if _prepares(model, mesh):
        whole = NamedSharding(mesh, PartitionSpec())
        params = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
            jax.eval_shape(lambda p: prepare(p, dtype_), params),
        )
    limit = config.model.max_length()
    return Engine(model, params, max_length=limit, compiler_options=options_for(config, mesh))


def _prepares(model: Model, mesh: Mesh) -> bool:
    """Whether decoding reads its parameters in a form of their own there."""
    here = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    return here and hasattr(model.config, "layer_loop")


def _model(config: TrainConfig, mesh: Mesh, dtype: str) -> Model:
    """The model as it decodes there."""
    config = for_inference(config)
    model, _ = build_model(config, mesh, dtype)
    if _prepares(model, mesh):
        unrolled = config.model.model_copy(update={"layer_loop": "unroll"})
        model, _ = build_model(config.model_copy(update={"model": unrolled}), mesh, dtype)
    return model


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Ids of a prompt, with the special tokens that a text begins with where the tokenizer adds them."""
    if tokenizer is None:
        raise ValueError(
            "prompt: the directory that from= names has no tokenizer, so text has no ids; give ids, "
            "prompt_tokens=[1,2,3], or copy the tokenizer.json of the model into it"
        )
    encode = getattr(tokenizer, "encode_prompt", tokenizer.encode)
    return [int(i) for i in encode(text)]
