"""Whether batch, sequences and model can be split as a mesh asks for, and which sizes can if these cannot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax

from lmx.config.errors import ConfigError, Problem
from lmx.config.overrides import write_override
from lmx.params import named_params
from lmx.run.config import TrainConfig
from lmx.sharding import split_axes, ways
from lmx.types import Tree

ACTIVATIONS = {"act_embed": "embed", "act_ffn": "ffn", "act_heads": "heads", "act_kv_heads": "kv_heads"}
"""Activation axes that are as long as an axis of parameters."""


class Extent(NamedTuple):
    """Something that is split: `size` elements along a logical axis.

    name      what a message calls it
    key       the configuration key that sets its size, or None where several do
    multiple  how many elements each part must have a multiple of
    tokens    of an element, where the key counts tokens; 0 where it counts elements
    """

    name: str
    size: int
    axis: str
    key: str | None = None
    multiple: int = 1
    tokens: int = 0


def check_fit(config: TrainConfig, specs: Tree, mesh: jax.sharding.Mesh) -> None:
    """ConfigError with every extent that does not divide, each with a size that does."""
    problems = fit_problems(config, specs, mesh.shape)
    if problems:
        raise ConfigError(problems)


def fit_problems(config: TrainConfig, specs: Tree, sizes: Mapping[str, int]) -> list[Problem]:
    """The problems of `check_fit`, for mesh axes of these sizes."""
    rules = config.mesh.rules
    of_model = list(_model_extents(specs))
    wrong = [e for e in of_model if e.size % ways(sizes, rules, e.axis)]
    better = _nearest_sizes(of_model, sizes, rules) if wrong else None
    problems = _half_exchanged(config, sizes) if any(e.axis == "experts" for e in of_model) else []
    told = {(e.axis, e.size) for e in wrong}
    # Activations that lie as their parameters do add nothing to what is said of these.
    own = [e for e in wrong if (_like(e, rules), e.size) not in told]
    for extent in [*_trainer_extents(config, sizes), *own]:
        parts = ways(sizes, rules, extent.axis) * extent.multiple
        if extent.size % parts == 0:
            continue
        over = " x ".join(f"{name} {sizes[name]}" for name in split_axes(rules, extent.axis))
        twice = f", each part in {extent.multiple} equal pieces" if extent.multiple > 1 else ""
        message = f"{extent.name} cannot be split {parts // extent.multiple} ways ({over}){twice}"
        if extent.key is not None:
            grown = -(-extent.size // parts) * parts
            value = f"{grown * extent.tokens} tokens" if extent.tokens else grown
            fix = write_override(extent.key, value)
            said = config.trainer.global_batch_size if extent.tokens else extent.size
            problems.append(Problem(extent.key, message, said, fix=fix, kind="mesh"))
            continue
        if better:
            shape = " x ".join(f"{name} {size}" for name, size in better.items())
            message += f"; {shape} fits all of the model"
        elif extent.axis == "embed" and (most := _most_ways(extent.size, parts)) > 1:
            message += (
                f"; {most} ways it can: mesh=hsdp mesh.axes.replica={parts // most} holds {parts // most} copies of "
                f"the model, each split over {most}"
            )
        problems.append(
            Problem(f"mesh.rules.{extent.axis}", message, fix=_overrides(config, better), kind="mesh")
        )
    return problems


def _half_exchanged(config: TrainConfig, sizes: Mapping[str, int]) -> list[Problem]:
    """Experts along axes of which some split the tokens, too: neither an exchange nor a sum would do."""
    rules = config.mesh.rules
    experts = [name for name in split_axes(rules, "experts") if sizes[name] > 1]
    tokens = split_axes(rules, "batch") + split_axes(rules, "length")
    shared = [name for name in experts if name in tokens]
    if len(shared) in (0, len(experts)):
        return []
    rest = ", ".join(name for name in experts if name not in shared)
    message = (
        f"experts lie over {', '.join(experts)}; tokens are split over {', '.join(shared)}, but not over {rest}: "
        "split them over all of these (mesh.rules.batch) or over none"
    )
    fix = write_override("mesh.rules.experts", shared if len(shared) > 1 else shared[0])
    return [Problem("mesh.rules.experts", message, rules["experts"], fix=fix, kind="mesh")]


def pipeline_parts(config: TrainConfig, sizes: Mapping[str, int]) -> int:
    """Into how many micro-batches of a pipeline each device's rows are cut."""
    if config.mesh.pipeline is None or math.prod(sizes.values()) == 1:
        return 1
    stage = split_axes(config.mesh.rules, "layers")[0]
    among = stage in split_axes(config.mesh.rules, "batch")
    return config.mesh.pipeline.micro_batches // (sizes[stage] if among else 1)


def _trainer_extents(config: TrainConfig, sizes: Mapping[str, int]) -> list[Extent]:
    trainer, rules = config.trainer, config.mesh.rules
    stages = pipeline_parts(config, sizes)
    sequences, length = trainer.batch_sequences(), trainer.sequence_length
    counted = f"a batch of {sequences} sequences"
    if trainer.accumulation > 1:
        counted += f" in {trainer.accumulation} micro-batches"
    tokens = isinstance(trainer.global_batch_size, str) and "tokens" in trainer.global_batch_size
    batch = Extent(
        counted,
        sequences,
        "batch",
        "trainer.global_batch_size",
        trainer.accumulation * stages,
        length if tokens else 0,
    )
    ring = 2 if config.mesh.context_attention == "ring" and split_axes(rules, "length") else 1
    key = "trainer.sequence_length"
    return [
        batch,
        Extent(
            f"an evaluation batch of {trainer.eval_batch_size}",
            trainer.eval_batch_size,
            "batch",
            "trainer.eval_batch_size",
            stages,
        ),
        Extent(f"a sequence of {length} tokens", length, "length", key, ring),
        Extent(f"a sequence of {length} tokens", length, "residual_length", key),
    ]


def _model_extents(specs: Tree) -> Iterator[Extent]:
    """Each logical axis of the parameters with each of its sizes, and the activations that are as long."""
    seen: dict[tuple[str, int], list[str]] = {}
    for path, param in named_params(specs).items():
        for axis, size in zip(param.axes, param.shape, strict=True):
            seen.setdefault((axis, size), []).append(path)
    for (axis, size), paths in seen.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        yield Extent(f"{axis} = {size} (of {paths[0]}{more})", size, axis)
        for name, like in ACTIVATIONS.items():
            if like == axis:
                yield Extent(f"{name} = {size}", size, name)


def _like(extent: Extent, rules: Mapping) -> str | None:
    """The parameters' axis that these activations are split as; None where they are split in a way of their own."""
    like = ACTIVATIONS.get(extent.axis)
    return like if like is not None and split_axes(rules, like) == split_axes(rules, extent.axis) else None


def _nearest_sizes(extents: list[Extent], sizes: Mapping[str, int], rules: Mapping) -> dict[str, int] | None:
    """Sizes, for as many devices, that split every extent and are nearest to `sizes`; None: there are none."""
    found = [
        shape
        for shape in _shapes(list(sizes), math.prod(sizes.values()))
        if all(e.size % ways(shape, rules, e.axis) == 0 for e in extents)
    ]
    if not found:
        return None
    return min(found, key=lambda shape: sum(abs(math.log2(shape[n] / sizes[n])) for n in sizes))


def _most_ways(size: int, parts: int) -> int:
    """The largest divisor of `parts` that `size` divides by."""
    return next(n for n in range(parts, 0, -1) if parts % n == 0 and size % n == 0)


def _shapes(names: list[str], devices: int) -> Iterator[dict[str, int]]:
    """Every way to share `devices` among the axes."""
    if len(names) == 1:
        yield {names[0]: devices}
        return
    for size in range(1, devices + 1):
        if devices % size == 0:
            for rest in _shapes(names[1:], devices // size):
                yield {names[0]: size, **rest}


def _overrides(config: TrainConfig, better: dict[str, int] | None) -> str | None:
    if better is None:
        return None
    words = [
        f"mesh.axes.{name}={size}"
        for name, size in better.items()
        if isinstance(config.mesh.axes[name], int) and config.mesh.axes[name] != size
    ]
    if words:
        return " ".join(words)
    return " ".join(f"mesh.axes.{name}={size}" for name, size in better.items())
