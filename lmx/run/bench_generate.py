"""`lmx bench generate`: how fast prompts are read and tokens are made."""

from __future__ import annotations

import statistics
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from lmx import params as param_tree
from lmx.config.component import Config, field
from lmx.config.errors import requests
from lmx.config.mesh import Mesh
from lmx.config.types import Count, Positive, Text
from lmx.infer.engine import Engine
from lmx.infer.prepare import prepare
from lmx.infer.requests import Request
from lmx.layers import Kernels
from lmx.models import Model
from lmx.run.build import build_model
from lmx.run.engine import make_engine
from lmx.run.infer_config import Dtype
from lmx.run.load import load
from lmx.sharding import make_mesh


class BenchGenerate(Config):
    """`lmx bench generate`."""

    source: Text | None = Field(
        alias="from", description="a run or a HuggingFace directory; null: `model` with random parameters"
    )
    model: Model = field("what is timed where from is null")
    mesh: Mesh = field("devices")
    kernels: Kernels = field("products and attention")
    dtype: Dtype = field("of parameters and computation")
    batch: list[Positive] = field("rows at once, one measurement each")
    prompt_length: Positive = field("tokens read", unit="tokens")
    max_new_tokens: Positive = field("tokens made, greedily", unit="tokens")
    warmup: Count = field("repetitions before the timing starts; the first compiles")
    repeats: Positive = field("repetitions that are timed")
    seed: Count = field("of parameters and prompts")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")


def bench_generate(config: BenchGenerate) -> list[dict[str, Any]]:
    """For each batch size seconds and rates, medians over the repetitions.

    prefill is from the call to the first token; decode is all further tokens, tokens of all rows a second. cpu_...
    is processor time of this process, which other processes disturb less.
    """
    with requests():
        engine = _engine(config)
        vocab = engine.vocab_size
        prompts = np.random.default_rng(config.seed).integers(
            0, vocab, (max(config.batch), config.prompt_length)
        )
        asked = [Request(tokens=ids.tolist(), max_new_tokens=config.max_new_tokens) for ids in prompts]
        engine.check(asked[0])
    return [_measure(engine, asked[:rows], config) for rows in config.batch]


def _engine(config: BenchGenerate) -> Engine:
    if config.source is not None:
        loaded = load(config.source, config.dtype)
        return make_engine(loaded, config.dtype)
    mesh = make_mesh(config.mesh)
    cpu = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    if cpu and hasattr(config.model, "layer_loop"):
        config = config.model_copy(update={"model": config.model.model_copy(update={"layer_loop": "unroll"})})
    model, _ = build_model(config, mesh, config.dtype)
    params = param_tree.init(model.specs, jax.random.key(config.seed), jnp.dtype(config.dtype))
    return Engine(model, prepare(params, jnp.dtype(config.dtype)) if cpu else params)


def _measure(engine: Engine, asked: list[Request], config: BenchGenerate) -> dict[str, Any]:
    prefill, decode = [], []
    for _ in range(config.warmup + config.repeats):
        start, used = time.perf_counter(), time.process_time()
        state, controls, _ = engine.start(asked)
        jax.block_until_ready(state)
        middle, used_so_far = time.perf_counter(), time.process_time()
        nobody = np.zeros(state.done.shape, bool)
        for _ in range(-(-(config.max_new_tokens - 1) // engine.steps)):
            state, _ = engine.advance(state, controls, nobody, engine.steps)
        jax.block_until_ready(state)
        assert int(state.made.min()) == config.max_new_tokens or len(asked) < state.made.size
        prefill.append((middle - start, used_so_far - used))
        decode.append((time.perf_counter() - middle, time.process_time() - used_so_far))
    rows, made = len(asked), config.max_new_tokens - 1
    found: dict[str, Any] = {"batch": rows, "prompt_length": config.prompt_length, "max_new_tokens": made + 1}
    for name, tokens, both in (
        ("prefill", rows * config.prompt_length, prefill[config.warmup :]),
        ("decode", rows * made, decode[config.warmup :]),
    ):
        wall = statistics.median(w for w, _ in both)
        found |= {
            f"{name}_seconds": wall,
            f"{name}_tokens_per_second": tokens / wall,
            f"{name}_tokens_per_second_best": tokens / min(w for w, _ in both),
            f"{name}_cpu_seconds": statistics.median(c for _, c in both),
        }
    return found | {
        "dtype": config.dtype,
        "device_kind": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def generate_text(found: list[dict[str, Any]]) -> str:
    """The result for people."""
    lines = [
        f"batch {f['batch']}: prefill {f['prefill_tokens_per_second']:,.0f} tokens/s, "
        f"decode {f['decode_tokens_per_second']:,.1f} tokens/s "
        f"(best {f['decode_tokens_per_second_best']:,.1f}; processor time {f['decode_cpu_seconds']:.2f} s)"
        for f in found
    ]
    return "\n".join(lines)
