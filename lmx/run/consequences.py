"""What follows from a configuration: sizes, work, memory, traffic, time and money, as plain numbers by name."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lmx import params as param_tree
from lmx.params import named_params
from lmx.review import orthogonal
from lmx.review.estimate import Past, StepTime, measured_time, roofline_time, split_of
from lmx.review.memory import Memory, Sizes, memory
from lmx.review.prices import Prices
from lmx.review.roofline import work_of
from lmx.review.traffic import Load, traffic
from lmx.run.outline import Outline, all_bytes, device_bytes
from lmx.sharding import split_axes, ways

CURVE = 33
"""Points of the schedule's curve."""
RECOMPUTED = {
    "none": 0.0,
    "full": 1 / 3,
    "attention": 0.3,
    "block_io": 0.2,
    "dots": 0.0,
    "dots_no_batch": 0.05,
}
"""FLOPs that a policy computes again, as a part of forward and backward; an upper figure, attention's scores aside."""


class Consequences(NamedTuple):
    """values: name -> number or None where it is not known; the rest explains some of them."""

    values: dict[str, Any]
    memory: Memory
    traffic: dict[str, int]
    time: StepTime | None
    curve: list[tuple[int, float]]


def consequences(outline: Outline, *, prices: Prices | None, past: Past | None) -> Consequences:
    """Everything that the configuration alone tells."""
    trainer = outline.config.trainer
    tokens_per_step = trainer.batch_sequences() * trainer.sequence_length
    tokens = None if outline.steps is None else outline.steps * tokens_per_step
    flops = outline.model.flops(trainer.sequence_length).causal
    sent = _traffic(outline)
    found = _memory(outline)
    time = _time(outline, sent, past)
    chip = outline.target.chip
    total, active, embedding = parameters(outline)
    hours = None if time is None or outline.steps is None else time.middle * outline.steps / 3600
    price = None if prices is None or chip is None else prices.chip_hour.get(chip.name)
    chip_hours = None if hours is None else hours * outline.target.devices
    values: dict[str, Any] = {
        "params_total": total,
        "params_active": active,
        "params_embedding": embedding,
        "flops_per_token": flops,
        "flops_per_step": flops * tokens_per_step,
        "flops_total": None if tokens is None else flops * tokens,
        "tokens_per_step": tokens_per_step,
        "steps": outline.steps,
        "tokens": tokens,
        "optimizer_state_bytes": all_bytes(outline.state.opt_state),
        "checkpoint_bytes": all_bytes(outline.state),
        "state_bytes_per_device": found.parts["state"],
        "peak_bytes_per_device": found.peak,
        "hbm_bytes": None if chip is None else chip.hbm,
        "headroom": None if chip is None else 1 - found.peak / chip.hbm,
        "collective_bytes_per_step": sum(sent.values()),
        **{f"collective_bytes.{axis}": n for axis, n in sent.items()},
        "step_time": None if time is None else time.middle,
        "step_time_low": None if time is None else time.low,
        "step_time_high": None if time is None else time.high,
        "mfu": None
        if time is None or chip is None
        else flops * tokens_per_step / (time.middle * outline.target.devices * chip.flops),
        "devices": outline.target.devices,
        "wall_hours": hours,
        "chip_hours": chip_hours,
        "cost": None if chip_hours is None or price is None else chip_hours * price,
    }
    return Consequences(values, found, sent, time, schedule_curve(outline))


def parameters(outline: Outline) -> tuple[int, int, int]:
    """All parameters, those that a token meets, and those that are looked up by token or position."""
    params = named_params(outline.model.specs).values()
    moe = getattr(outline.config.model, "moe", None)
    part = moe.top_k / moe.n_experts if moe else 1.0
    active = sum(p.size * (part if "experts" in p.axes else 1.0) for p in params)
    looked_up = sum(p.size for p in params if {"vocab", "position"} & set(p.inputs))
    return sum(p.size for p in params), round(active), looked_up


def recomputed(outline: Outline) -> float:
    """Part of forward and backward that is computed again."""
    remat = getattr(outline.config.model, "remat", "none")
    return RECOMPUTED.get(remat, 1 / 3) if isinstance(remat, str) else 1 / 3


def _traffic(outline: Outline) -> dict[str, int]:
    config, trainer = outline.config, outline.config.trainer
    model = config.model
    moe, layers = getattr(model, "moe", None), getattr(model, "n_layers", 0)
    load = Load(
        tokens=trainer.batch_sequences() * trainer.sequence_length,
        width=getattr(model, "d_model", 0),
        layers=layers,
        moe_layers=moe.layers(layers).count("moe") if moe else 0,
        top_k=moe.top_k if moe else 0,
        micro_batches=trainer.accumulation,
        recomputes=recomputed(outline) > 0,
        compute_bytes=jnp.dtype(trainer.compute_dtype).itemsize,
        gradient_bytes=jnp.dtype(trainer.param_dtype).itemsize,
        readers=_readers(model),
        tied=getattr(model, "tie_embeddings", False),
        platform=outline.target.platform,
    )
    sent = traffic(outline.model.specs, config.mesh.rules, outline.sizes, load)
    return sent | {
        name: sent[name] + round(more) for name, more in orthogonal.sent(*_matrices(outline)).items()
    }


def _readers(model: Any) -> int:
    """Products of a block that read the residual stream."""
    mlp = getattr(model, "mlp", None)
    return 3 + (2 if mlp is not None and mlp.kind == "gated" else 1)


def _matrices(outline: Outline) -> tuple[Any, Any, Any, dict[str, int]]:
    return outline.config.optimizer, outline.model.specs, outline.config.mesh.rules, outline.sizes


def _memory(outline: Outline) -> Memory:
    config, trainer = outline.config, outline.config.trainer
    tpu = outline.target.platform == "tpu"
    compute, kept = jnp.dtype(trainer.compute_dtype).itemsize, jnp.dtype(trainer.param_dtype).itemsize
    held = device_bytes(outline.state.params, tpu=tpu)
    tokens = _rows(outline) * trainer.sequence_length / ways(outline.sizes, config.mesh.rules, "length")
    width = getattr(config.model, "d_model", 0)
    whole, part = _head(outline)
    block = 0.0
    if recomputed(outline) > 0:
        block = 2 * tokens * _hidden_width(outline) * compute
    return memory(
        Sizes(
            state=device_bytes(outline.state, tpu=tpu),
            gradients=_gradients(outline, held),
            activations=outline.kept.activations,
            last=min(round(tokens * width * (4 + compute)), outline.kept.activations),
            cast=round(outline.kept.cast * held / kept * compute),
            layer=round(compute * _largest_block(outline)),
            block=round(block),
            head=round(compute * part),
            head_sum=round(4 * whole),
            head_part=round(4 * part),
            logits=2 * _logits(outline),
            matrices=orthogonal.held(*_matrices(outline)),
        ),
        keeps_cast=recomputed(outline) == 0,
    )


def _rows(outline: Outline) -> float:
    """Sequences of a device in a micro-batch."""
    trainer = outline.config.trainer
    return (
        trainer.batch_sequences()
        / trainer.accumulation
        / ways(outline.sizes, outline.config.mesh.rules, "batch")
    )


def _hidden_width(outline: Outline) -> float:
    """Hidden values of a token in a block on one device."""
    local, moe = outline.local, getattr(outline.local, "moe", None)
    if not hasattr(local, "mlp"):
        return 0.0
    return max(local.mlp.d_ff, moe.top_k * moe.d_ff if moe else 0)


def _gradients(outline: Outline, held: int) -> int:
    """Bytes of gradients on a device in the middle of the backward pass."""
    trainer = outline.config.trainer
    compute, kept = jnp.dtype(trainer.compute_dtype).itemsize, jnp.dtype(trainer.param_dtype).itemsize
    specs = outline.model.specs
    blocks = param_tree.count(specs["layers"]) if isinstance(specs, dict) and "layers" in specs else 0
    part = blocks / param_tree.count(specs)
    once = held * (part * min(compute, kept) / kept + 1 - part)
    return round(once + (held if trainer.accumulation > 1 else 0))


def _gathered(outline: Outline, param: Any) -> float:
    """Elements of a parameter on a device when it is multiplied with: split over axes that split no tokens alone."""
    rules, sizes = outline.config.mesh.rules, outline.sizes
    batch = split_axes(rules, "batch")
    exchanged = split_axes(rules, "experts") if "experts" in param.axes else ()
    cut = [a for axis in param.axes for a in split_axes(rules, axis) if a not in batch or a in exchanged]
    return param.size / math.prod(sizes[a] for a in cut)


def _largest_block(outline: Outline) -> float:
    """Elements of the block with most parameters, as gathered."""
    blocks = outline.model.specs.get("layers", []) if isinstance(outline.model.specs, dict) else []
    sums = []
    for block in blocks:
        params = [p for p in named_params(block).values() if "layers" in p.axes]
        sums.append(sum(_gathered(outline, p) / p.shape[p.axes.index("layers")] for p in params))
    return max(sums, default=0.0)


def _head(outline: Outline) -> tuple[float, float]:
    """Elements of the output head (or the embedding that it is): whole, and as gathered."""
    heads = [p for p in named_params(outline.model.specs).values() if "vocab" in p.axes]
    return max(((p.size, _gathered(outline, p)) for p in heads), default=(0, 0.0))


def _logits(outline: Outline) -> int:
    """Bytes of the float32 logits of a chunk."""
    config = outline.config
    whole = 4 * _rows(outline) * config.trainer.sequence_length * config.model.vocab_size
    whole /= ways(outline.sizes, config.mesh.rules, "length")
    return round(min(whole, config.kernels.logits_mib * 2**20))


def _time(outline: Outline, sent: dict[str, int], past: Past | None) -> StepTime | None:
    config, trainer = outline.config, outline.config.trainer
    tokens = trainer.batch_sequences() * trainer.sequence_length
    flops = outline.model.flops(trainer.sequence_length).causal
    chip = outline.target.chip
    if chip is None:
        return None if past is None else measured_time(flops * tokens / outline.target.devices, past)
    if not hasattr(config.model, "d_model"):
        return None
    count = param_tree.count(outline.model.specs)
    return roofline_time(
        work_of(config.model, outline.model.specs, flops),
        chip,
        split_of(config.mesh.rules, outline.sizes, outline.between),
        tokens=tokens,
        recomputed=recomputed(outline),
        compute_bytes=jnp.dtype(trainer.compute_dtype).itemsize,
        state_bytes=(all_bytes(outline.state)) / count,
        sent=sent,
        between=outline.between,
        links=outline.target.link,
        past=past,
    )


def schedule_curve(outline: Outline) -> list[tuple[int, float]]:
    """Learning rate at steps from the first to the last; empty where the length of the run is not known."""
    if outline.factor is None or outline.steps is None:
        return []
    last = outline.steps - 1
    early = [round(last * x) for x in (0.005, 0.01, 0.02, 0.05)]
    steps = sorted({*np.linspace(0, last, CURVE).round().astype(int).tolist(), *early})
    factors = np.asarray(outline.factor(np.asarray(steps))) * np.ones(len(steps))
    return [
        (s, float(outline.config.optimizer.learning_rate * f)) for s, f in zip(steps, factors, strict=True)
    ]


def derived(outline: Outline, values: dict[str, Any]) -> dict[str, Any]:
    """What nobody sets but everybody asks for."""
    config, trainer = outline.config, outline.config.trainer
    curve = dict(schedule_curve(outline))
    steps = sorted(curve)
    at = {f"learning rate at {part:.0%} of the run": rate for part, rate in _rates(curve)}
    tokens, total = values["tokens"], values["params_total"]
    data = epoch_tokens(config)
    peak = max(curve.values(), default=0.0)
    warm = next((s for s in steps if curve[s] >= peak * (1 - 1e-6)), None)
    return {
        "tokens_per_step": values["tokens_per_step"],
        "sequences_per_device": trainer.batch_sequences() / ways(outline.sizes, config.mesh.rules, "batch"),
        "tokens_per_parameter": None if tokens is None else tokens / total,
        "warmup_fraction": None if warm is None or not steps else warm_steps(outline) / (steps[-1] + 1),
        "epochs": None if data is None or tokens is None else tokens / data,
        **at,
    }


def warm_steps(outline: Outline) -> int:
    """Steps of the warm-up."""
    from lmx.optim.schedule_config import span_steps

    config, steps = outline.config, outline.steps or 1
    tokens = config.trainer.batch_sequences() * config.trainer.sequence_length
    return span_steps(config.schedule.warmup, total_steps=steps, tokens_per_step=tokens)


def _rates(curve: dict[int, float]) -> list[tuple[float, float]]:
    """Learning rates at parts of the run: its first step, those near a tenth and half, its last."""
    if not curve:
        return []
    last = max(curve)
    return [(part, curve[min(curve, key=lambda s: abs(s - part * last))]) for part in (0.0, 0.1, 0.5, 1.0)]


def epoch_tokens(config: Any) -> int | None:
    """Tokens to train on in an epoch, where that is seen without reading the data."""
    n = config.data.tokens_of_an_epoch(config.trainer.sequence_length)
    return None if n is None else max(n, 1)
