"""`mesh`: how many devices each mesh axis has, and which logical axes are split over which mesh axes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Literal

from lmx.config.component import Config, field
from lmx.config.types import Positive, Text

LOGICAL_AXES: dict[str, str] = {
    # of parameters
    "embed": "width of the residual stream, in every weight that reads or writes it",
    "ffn": "hidden width of an MLP",
    "heads": "query heads",
    "kv_heads": "key and value heads",
    "head": "width of a head",
    "vocab": "rows of the embedding and of the output head",
    "position": "rows of a table of positions; taps of a convolution",
    "norm": "scales and biases that are as wide as what they are added to",
    "layers": "stack of equal layers",
    "experts": "experts of a layer",
    "expert_embed": "width of the residual stream, in the weights of experts",
    "expert_ffn": "hidden width of an expert",
    "router": "outputs of a router",
    "latent": "narrow vector of latent attention, in the weights that read it",
    "latent_out": "narrow vector of latent attention, in the weights that make it",
    # of activations
    "batch": "sequences of a batch",
    "length": "positions of a sequence, in the batch and inside attention and MLP",
    "residual_length": "positions of a sequence in the residual stream, between attention and MLP",
    "act_embed": "width of the residual stream",
    "act_ffn": "hidden width of an MLP",
    "act_heads": "query heads",
    "act_kv_heads": "key and value heads",
    "act_vocab": "logits",
}
"""Every logical axis that the rooms of lmx lay over a mesh, and what it is."""

TOGETHER: tuple[tuple[str, ...], ...] = (
    ("layers", "embed", "heads", "head"),
    ("layers", "embed", "kv_heads", "head"),
    ("layers", "latent", "heads", "head"),
    ("layers", "embed", "latent_out"),
    ("layers", "embed", "ffn"),
    ("layers", "embed", "router"),
    ("layers", "experts", "expert_embed", "expert_ffn"),
    ("layers", "experts", "norm"),
    ("layers", "position", "norm"),
    ("vocab", "embed"),
    ("position", "embed"),
    ("batch", "length", "act_heads"),
    ("batch", "length", "act_kv_heads"),
    ("batch", "length", "act_ffn"),
    ("batch", "length", "act_vocab"),
    ("batch", "residual_length", "act_embed"),
)
"""Logical axes of one array: no two of them can lie over one mesh axis."""

Rules = Mapping[str, "list[str] | str | None"]


def mesh_axes(rule: list[str] | tuple[str, ...] | str | None) -> tuple[str, ...]:
    """The mesh axes of a rule, outermost first."""
    return (rule,) if isinstance(rule, str) else tuple(rule or ())


class Pipeline(Config):
    """Layers in stages, one after another on the devices along the mesh axis of `rules.layers` (arXiv:1811.06965).

    Each step's batch goes through them in micro-batches, and with `repeats` around that often, each stage holding as
    many blocks of layers (interleaved, arXiv:2104.04473): of n stages, (n - 1) / (micro_batches x repeats + n - 1) of
    the time is a bubble.
    """

    micro_batches: Positive = field(
        "parts of a (micro-)batch, a multiple of the stages; more have a smaller bubble, and smaller products",
        effect="throughput",
    )
    repeats: Positive = field(
        "blocks of layers that a stage holds; more have a smaller bubble, and more to send",
        effect="throughput",
    )


class Mesh(Config):
    """Mesh axes in order, outermost first, and the rules that lay logical axes over them.

    Where devices are joined by links of different speed (slices of TPU chips, hosts of GPUs), the outer axes cross
    the slower ones.
    """

    preset: Text | None = field(
        "name of the hardware that mesh, rematerialisation, kernels and precision were chosen for; null: none",
        effect="bookkeeping",
    )
    axes: dict[str, Positive | Literal["auto", "slices"]] = field(
        "devices along each mesh axis; one may be auto: what the others leave; slices: as many as there are groups "
        "of devices with fast links inside (slices of TPU chips, hosts of GPUs)",
        effect="throughput",
    )
    rules: dict[str, list[str] | str | None] = field(
        "logical axis -> mesh axis (or several, outermost first); null: not split", effect="throughput"
    )
    context_attention: Literal["all_gather", "ring"] | None = field(
        "attention where rules.length splits sequences: all_gather brings all keys and values to each device; ring "
        "passes them around (arXiv:2310.01889), each device holding one early and one late part of the sequence, so "
        "that causality leaves all the same work (arXiv:2407.21783, section 3.3.2); null: left to the compiler",
        effect="throughput",
    )
    pipeline: Pipeline | None = field(
        "layers in stages, where rules.layers splits them; null: those who hold a layer send it to all",
        effect="throughput",
    )

    def problems(self, own_axes: Iterable[str] = ()) -> list[tuple[str, str, str]]:
        """What can be told without devices: (key, message, fix). `own_axes` are logical axes of the model's own."""
        known = {**LOGICAL_AXES, **{name: "the model's own" for name in own_axes}}
        found = [*_axis_problems(self), *_name_problems(self, known)]
        return found or [*_twice(self), *_collisions(self.rules), *_context(self), *_pipeline(self)]


def _axis_problems(mesh: Mesh) -> list[tuple[str, str, str]]:
    if not mesh.axes:
        return [("mesh.axes", "a mesh needs at least one axis", "mesh.axes.data=auto")]
    free = [name for name, size in mesh.axes.items() if size == "auto"]
    if len(free) > 1:
        message = f"only one axis may be auto, but {' and '.join(free)} are"
        return [("mesh.axes", message, f"mesh.axes.{free[1]}=1")]
    return []


def _nearest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)), None)


def _name_problems(mesh: Mesh, known: Mapping[str, str]) -> list[tuple[str, str, str]]:
    found = []
    for logical, rule in mesh.rules.items():
        key = f"mesh.rules.{logical}"
        if logical not in known:
            meant = _nearest(logical, known)
            message = f"there is no logical axis {logical!r}; there are {', '.join(known)}"
            fix = f"~{key}" if meant is None else f"'~{key}' mesh.rules.{meant}={_written(rule)}"
            found.append((key, message, fix))
            continue
        for name in mesh_axes(rule):
            if name not in mesh.axes:
                meant = _nearest(name, mesh.axes) or "null"
                message = (
                    f"{logical!r} is laid over {name!r}, but the mesh has the axes {', '.join(mesh.axes)}"
                )
                found.append((key, message, f"{key}={meant}"))
    missing = [logical for logical in LOGICAL_AXES if logical not in mesh.rules]
    if missing:
        message = (
            f"no rule for {', '.join(missing)}; a file that begins with `defaults: [_rules, _self_]` has one for "
            "each logical axis, null (not split) unless it says otherwise"
        )
        found.append(("mesh.rules", message, ""))
    return found


def _written(rule: list[str] | str | None) -> str:
    names = mesh_axes(rule)
    return "null" if not names else names[0] if len(names) == 1 else f"[{','.join(names)}]"


def _twice(mesh: Mesh) -> list[tuple[str, str, str]]:
    found = []
    for logical, rule in mesh.rules.items():
        names = mesh_axes(rule)
        if len(set(names)) < len(names):
            once = list(dict.fromkeys(names))
            message = f"names the mesh axis {next(n for n in names if names.count(n) > 1)!r} twice"
            found.append((f"mesh.rules.{logical}", message, f"mesh.rules.{logical}={_written(once)}"))
    return found


def _collisions(rules: Rules) -> list[tuple[str, str, str]]:
    """Pairs of logical axes that some array has both of, and that lie over one mesh axis."""
    found: dict[tuple[str, str], tuple[str, str, str]] = {}
    for axes in TOGETHER:
        for first, second in combinations(axes, 2):
            shared = [name for name in mesh_axes(rules[first]) if name in mesh_axes(rules[second])]
            if shared:
                rest = [name for name in mesh_axes(rules[second]) if name not in shared]
                message = (
                    f"{first!r} and {second!r} of one array ({', '.join(axes)}) are both laid over the mesh axis "
                    f"{shared[0]!r}; only one of them can be"
                )
                fix = f"mesh.rules.{second}={_written(rest)}"
                found.setdefault((first, second), (f"mesh.rules.{second}", message, fix))
    return list(found.values())


def _context(mesh: Mesh) -> list[tuple[str, str, str]]:
    if mesh.context_attention is None or mesh_axes(mesh.rules["length"]):
        return []
    message = (
        f"{mesh.context_attention} is a way to split attention along sequences, and mesh.rules.length splits none; "
        "mesh=context and mesh=context_ring do"
    )
    return [("mesh.context_attention", message, "mesh.context_attention=null")]


def _pipeline(mesh: Mesh) -> list[tuple[str, str, str]]:
    """What a pipeline needs of its mesh: one axis of stages, and micro-batches in rounds of as many as there are."""
    if mesh.pipeline is None:
        return []
    stages, n = mesh_axes(mesh.rules["layers"]), mesh.pipeline.micro_batches
    if len(stages) != 1:
        axis = next(iter(stages), next(iter(mesh.axes)))
        message = f"a pipeline needs one mesh axis for its stages, and {len(stages)} are given"
        return [("mesh.rules.layers", message, f"mesh.rules.layers={axis}")]
    size = mesh.axes[stages[0]]
    if isinstance(size, int) and n % size:
        message = f"{n} micro-batches are not a multiple of the {size} stages (mesh.axes.{stages[0]})"
        return [
            ("mesh.pipeline.micro_batches", message, f"mesh.pipeline.micro_batches={-(-n // size) * size}")
        ]
    return []
