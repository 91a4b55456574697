"""The figures of a run: throughput and MFU, the words at its start, `summary.json` and the words at its end."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lmx import params as param_tree
from lmx.config.overrides import write_value
from lmx.config.text import counted
from lmx.data.pretrained import IdsOnly
from lmx.io.progress import readable
from lmx.models import pipeline
from lmx.models.model import Flops
from lmx.optim.groups import ALL_OTHERS
from lmx.run.build import Parts
from lmx.run.config import TrainConfig
from lmx.sharding import describe_mesh, make_shard
from lmx.train.hardware import peak_flops

WARM_UP_STEPS = 5
"""Steps whose time does not count in the median."""


class Throughput(NamedTuple):
    """What turns a step time into rates.

    tokens_per_step   inputs of a global batch, padding included
    flops             a token's, in training
    peak              FLOP/s of all devices together, or None where it is not known
    """

    tokens_per_step: int
    flops: Flops
    peak: float | None

    @classmethod
    def of(cls, config: TrainConfig, parts: Parts) -> Throughput:
        """For a configuration on the devices of its mesh."""
        trainer = config.trainer
        device = parts.mesh.devices.flat[0]
        each = trainer.peak_flops or peak_flops(device.device_kind)
        return cls(
            trainer.batch_sequences() * trainer.sequence_length,
            parts.model.flops(trainer.sequence_length),
            each * parts.mesh.size if each else None,
        )

    def rates(self, step_time: float | None) -> dict[str, Any]:
        """step_time in seconds, tokens_per_second, and mfu (attention counted causally); None where not known."""
        if step_time is None:
            return {"step_time": None, "tokens_per_second": None, "mfu": None}
        per_second = self.tokens_per_step / step_time
        mfu = per_second * self.flops.causal / self.peak if self.peak else None
        return {"step_time": step_time, "tokens_per_second": per_second, "mfu": mfu}


def describe(config: TrainConfig, parts: Parts, dataset: Any, steps: int, throughput: Throughput) -> str:
    """What is about to be trained, on what, and how MFU is counted: the lines at the start of a run."""
    trainer, specs = config.trainer, parts.model.specs
    tokens = steps * throughput.tokens_per_step
    train, held = dataset.description.get("train", {}), dataset.description.get("eval", {})
    lines = [
        f"{config.name}: {readable(param_tree.count(specs))} parameters, "
        f"{trainer.param_dtype} kept, {trainer.compute_dtype} computed",
        f"{steps:,} steps of {trainer.batch_sequences()} x {trainer.sequence_length} tokens = {readable(tokens)} "
        f"tokens, {tokens / max(dataset.tokens_per_epoch, 1):.2f} epochs",
        f"data: {readable(train.get('tokens', dataset.tokens_per_epoch))} tokens to train on"
        + (f", {readable(held['tokens'])} to evaluate on" if "tokens" in held else ""),
        *how_it_is_computed(config, parts),
    ]
    for row in config.optimizer.table(specs):
        lines.append(
            f"  {row.rule}{'' if row.group == ALL_OTHERS else f' ({row.group})'}: "
            f"{readable(row.parameters)} parameters in {counted(row.tensors, 'array')}, "
            f"peak learning rate {row.learning_rate:g}, weight decay {row.weight_decay:g}"
        )
    lines.append(
        f"FLOPs a token: {readable(throughput.flops.causal)} = 6 x matrix weights + 12 x layers x heads x head_dim "
        f"x keys seen ({readable(throughput.flops.full)} with all keys)"
        + ("" if throughput.peak else "; no MFU: set trainer.peak_flops")
    )
    return "\n".join(lines)


def how_it_is_computed(config: TrainConfig, parts: Parts) -> list[str]:
    """Devices in the order of the mesh with their links, the pipeline's bubble, kernels and precision: a line each."""
    trainer = config.trainer
    lines = [describe_mesh(parts.mesh) + (f", preset {config.mesh.preset}" if config.mesh.preset else "")]
    plan = pipeline.schedule(make_shard(parts.mesh, config.mesh.rules, config.mesh.pipeline))
    if plan is not None:
        lines.append(pipeline.describe(plan))
    needs = config.model.attention_needs(trainer.compute_dtype)
    if needs is not None:
        asked = " (auto)" if config.kernels.attention == "auto" else ""
        around = config.mesh.context_attention if config.mesh.rules["length"] else None
        split = f", sequences split: {around}" if around else ""
        lines.append(f"attention: {parts.kernels.attention_name(needs)}{asked}{split}")
    for name, products in config.precision.products.items():
        patterns = products.path if isinstance(products.path, str) else ", ".join(products.path)
        lines.append(f"{products.format}: products with {patterns} ({name})")
    return lines


def summary(
    config: TrainConfig,
    parts: Parts,
    throughput: Throughput,
    *,
    status: str,
    step: int,
    step_times: list[float],
    **results: Any,
) -> dict[str, Any]:
    """summary.json: results and rates; rates are of the median step after warm-up, None with too few steps."""
    steady = step_times[WARM_UP_STEPS:]
    median = statistics.median(steady) if steady else None
    per_second = throughput.tokens_per_step / median if median else None

    def mfu(flops: float) -> float | None:
        return per_second * flops / throughput.peak if per_second and throughput.peak else None

    return {
        "status": status,
        "name": config.name,
        "steps": step,
        "tokens": step * throughput.tokens_per_step,
        **results,
        "params": param_tree.count(parts.model.specs),
        "step_time": median,
        "tokens_per_second": per_second,
        "mfu": mfu(throughput.flops.causal),
        "mfu_full_attention": mfu(throughput.flops.full),
        "flops_per_token": throughput.flops.causal,
        "flops_per_token_full_attention": throughput.flops.full,
        "peak_memory": _peak_memory(parts.mesh.local_devices),
        "devices": parts.mesh.size,
        "device_kind": parts.mesh.devices.flat[0].device_kind,
        "hosts": jax.process_count(),
    }


def _peak_memory(devices: Sequence[Any]) -> int | None:
    """The most bytes that were in use on one of the devices at once; None where they do not tell, as CPUs."""
    told = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in devices]
    return max((n for n in told if n is not None), default=None)


def words_at_end(results: dict[str, Any], config: TrainConfig, sample: str | None, tokenizer: Any) -> str:
    """What a finished run prints on stdout: its results, a sample, where it lies, and what to try next."""
    if config.output == "json":
        return json.dumps(results)
    bits = results["eval_bits_per_byte"]
    measured = f"evaluation loss {results['eval_loss']:.4f} nats a token"
    lines = ["", measured if bits is None else f"{measured}, {bits:.4f} bits per byte", ""]
    if sample is not None:
        lines += ["sample:", *(f"    {line}" for line in sample.splitlines()), ""]
    path, here = Path(results["run_dir"]), Path.cwd()
    shown = str(path.relative_to(here) if path.is_relative_to(here) else path)
    lines.append(f"run directory: {shlex.quote(shown)}")
    if any((path / "checkpoints").glob("[0-9]*")):
        ids = isinstance(tokenizer, IdsOnly)
        prompt = (
            f"prompt_tokens=[{tokenizer.eos_id or 0}]" if ids else f"prompt={config.trainer.sample.prompt}"
        )
        lines.append("next: " + shlex.join(["lmx", "generate", f"from={write_value(shown)}", prompt]))
    return "\n".join(lines)
