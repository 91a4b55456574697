"""What devices send one another in one run of a compiled program: kind, mesh axes, times, bytes.

Collectives are found by what they do, not by their names alone. A TPU compiler turns a gather into an all-reduce of
arrays that are zero but for one's own part, a reduce-scatter into an all-reduce of which a part is kept, and either
into permutations around a ring, in a loop. Between slices it has no collectives: each is a `send` and a `recv` of the
host's (megascale), which say what they stand for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lmx.review.hlo import Computation, Instruction, Module, Shape

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


BETWEEN_SLICES = {
    "ALL_GATHER": "all-gather",
    "ALL_REDUCE": "all-reduce",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
    "ONE_TO_ONE": "collective-permute",
}
"""`_xla_megascale_transfer_type` -> the collective."""


class Collective(NamedTuple):
    """All collectives of one kind over the same mesh axes.

    axes       names of the mesh axes, `a+b` where a group spans several, `?` where the groups fit none
    count      how many a run of the program
    bytes      that a device sends a run of the program, around a ring: (n - 1) / n of what is gathered, scattered or
               exchanged, twice that for an all-reduce, the whole of what is permuted
    largest    where the largest of them comes from: its operation, as JAX names it
    """

    kind: str
    axes: str
    count: int
    bytes: int
    largest: str


class _Found(NamedTuple):
    kind: str
    axes: str
    times: float
    bytes: float
    op_name: str


def collectives(
    module: Module, mesh_shape: dict[str, int], between: Mapping[str, int] | None = None
) -> list[Collective]:
    """The collectives of a program over a mesh, the most bytes first.

    Device i of the program is device i of the mesh in row-major order of its axes. `between`: axes that lead from slice
    to slice, with the number of slices along each.
    """
    found: dict[tuple[str, str], _Found] = {}
    for name, computation in module.computations.items():
        times = module.executions[name]
        if not times:
            continue
        for instruction in computation.instructions:
            kind = _kind(instruction)
            if kind is None:
                continue
            if instruction.opcode == "send":
                one = _measure_between(kind, module, computation, instruction, between or {}, times)
            else:
                one = _measure(kind, module, computation, instruction, mesh_shape, times)
            channel = instruction.attribute("channel_id") or f"{name}/{instruction.name}"
            key = (channel, instruction.opcode)
            found[key] = _once(found.get(key), one, chained="chain_id" in instruction.attributes)
    groups: dict[tuple[str, str], list[_Found]] = {}
    for one in found.values():
        if one.axes:
            groups.setdefault((one.kind, one.axes), []).append(one)
    result = [
        Collective(
            kind,
            axes,
            round(sum(o.times for o in ones)),
            round(sum(o.times * o.bytes for o in ones)),
            max(ones, key=lambda o: o.times * o.bytes).op_name,
        )
        for (kind, axes), ones in groups.items()
    ]
    return sorted(result, key=lambda c: -c.bytes)


def _once(known: _Found | None, one: _Found, *, chained: bool) -> _Found:
    """One collective of what stands in the text at its start, at its end, and in what runs beside it.

    A TPU compiler fuses the parts of an asynchronous collective into a chain of products, many of them in a loop:
    it runs as often as its start and its end do, however often the loop between them goes around.
    """
    if known is None:
        return one
    if chained:
        return max(known, one, key=lambda o: o.bytes)._replace(times=min(known.times, one.times))
    return max(known, one, key=lambda o: o.bytes * o.times)


def _kind(instruction: Instruction) -> str | None:
    name = instruction.opcode
    if name == "send":
        match = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
        return BETWEEN_SLICES.get(match[1], match[1].lower()) if match else None
    if name in ("async-start", "async-update", "async-done") or name.endswith("-done"):
        return None
    return name.removesuffix("-start") if name.removesuffix("-start") in KINDS else None


def _measure(
    kind: str,
    module: Module,
    inside: Computation,
    instruction: Instruction,
    mesh_shape: dict[str, int],
    times: float,
) -> _Found:
    arrays = instruction.arrays
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        arrays = _results(instruction)
    whole = sum(array.bytes for array in arrays)
    op_name = instruction.op_name or _caller_op_name(module, inside)
    if kind == "collective-permute":
        pairs = np.array(
            re.findall(r"\{(\d+),(\d+)\}", instruction.attribute("source_target_pairs") or ""), int
        )
        return _Found(kind, _axes_of_pairs(pairs.reshape(-1, 2), mesh_shape), times, whole, op_name)
    groups = replica_groups(_groups_text(instruction), math.prod(mesh_shape.values()))
    n = max((len(group) for group in groups), default=1)
    axes = _axes_of_groups(groups, mesh_shape)
    part = (n - 1) / n
    if kind == "all-reduce":
        if _gathers(module, inside, instruction):
            kind = "all-gather"
        elif _scatters(inside, instruction):
            kind = "reduce-scatter"
        else:
            return _Found(kind, axes, times, 2 * part * whole, op_name)
    elif kind == "reduce-scatter":
        whole *= n
    return _Found(kind, axes, times, part * whole, op_name)


def _measure_between(
    kind: str,
    module: Module,
    inside: Computation,
    instruction: Instruction,
    between: Mapping[str, int],
    times: float,
) -> _Found:
    """Of a `send`: its target is `{1,2}x{0:15}`, the slices that take part and the devices in each, or pairs.

    Slices are numbered from 1, in row-major order of the axes between them. Pairs count for all of these axes.
    """
    sent = instruction.arrays[0].bytes
    op_name = instruction.op_name or _caller_op_name(module, inside)
    target = re.search(r'_xla_megascale_target="\{([\d,]+)\}x', instruction.attributes)
    slices = (
        [int(number) - 1 for number in target[1].split(",")] if target else range(math.prod(between.values()))
    )
    n, spread = len(slices), _spread(slices, dict(between))
    axes = "+".join(name for name in between if name in spread) or "?"
    factor = {"all-reduce": 2 * (n - 1) / n, "all-gather": n - 1, "collective-permute": 1}.get(
        kind, (n - 1) / n
    )
    return _Found(kind, axes, times, factor * sent, op_name)


def _results(instruction: Instruction) -> list[Shape]:
    """The arrays that an asynchronous start will bring: its result is (operands, results, ...)."""
    shape = instruction.shape
    if isinstance(shape, list) and len(shape) > 1:
        part = shape[1]
        return [part] if isinstance(part, Shape) else list(part)
    return instruction.arrays


def _scatters(inside: Computation, instruction: Instruction) -> bool:
    """Whether only a slice of an all-reduce is kept, inside a fusion."""
    users = [i for i in inside.instructions if instruction.name in i.operands]
    return (
        bool(users)
        and inside.name.startswith("all-reduce-scatter")
        and all(
            i.opcode in ("dynamic-slice", "bitcast", "reshape", "tuple", "get-tuple-element") for i in users
        )
    )


def _gathers(module: Module, inside: Computation, instruction: Instruction) -> bool:
    """Whether an all-reduce adds arrays that are zero but for a part that each device wrote."""
    if not instruction.operands:
        return False
    return all(_mostly_zero(module, inside, name) for name in instruction.operands)


def _mostly_zero(module: Module, inside: Computation, name: str) -> bool:
    value, callers = inside.by_name.get(name), list[tuple[Computation, Instruction]]()
    for _ in range(8):
        if value is None:
            return False
        if value.opcode == "dynamic-update-slice":
            return _is_zero(inside, value.operands[0], callers)
        if value.opcode == "fusion" and (called := module.called(value)):
            callers.append((inside, value))
            inside, value = called[0], called[0].root
        elif value.opcode in ("bitcast", "copy", "convert", "reshape") and value.operands:
            value = inside.by_name.get(value.operands[0])
        else:
            return False
    return False


def _is_zero(inside: Computation, name: str, callers: list[tuple[Computation, Instruction]]) -> bool:
    """Whether a value is zeros; that of a fusion's parameter stands where the fusion, the last of `callers`, does."""
    value = inside.by_name.get(name)
    while value is not None and value.opcode in ("broadcast", "bitcast", "copy") and value.operands:
        value = inside.by_name.get(value.operands[0])
    if value is not None and value.opcode == "parameter" and callers:
        outside, fusion = callers[-1]
        return _is_zero(outside, fusion.operands[int(value.operand_text)], callers[:-1])
    return value is not None and value.opcode == "constant" and value.operand_text in ("0", "{0}", "-0")


def _caller_op_name(module: Module, inside: Computation) -> str:
    for computation in module.computations.values():
        for instruction in computation.instructions:
            if instruction.opcode == "fusion" and inside.name in instruction.calls:
                return instruction.op_name
    return ""


def _groups_text(instruction: Instruction) -> str:
    """The attribute; where it speaks of a mesh, a comma is part of it."""
    match = re.search(r"replica_groups=(mesh\[[^{]*\{[^}]*\})", instruction.attributes)
    return match[1] if match else instruction.attribute("replica_groups") or ""


def replica_groups(text: str, n_devices: int) -> list[list[int]]:
    """Groups of devices: `{{0,1},{2,3}}`, `[2,4]<=[8]`, `[4,2]<=[2,4]T(1,0)`, or a mesh and its axes.

    `mesh['a'=4,'b'=2] {'a'}` are the groups along a; `device_ids=([2,4]T(1,0))` says in what order devices stand.
    """
    text = text.strip()
    if match := re.match(r"mesh\[(.*?)\](?:, device_ids=\((.*?\]?(?:T\([\d,]*\))?)\))? *\{(.*?)\}", text):
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        ids = np.arange(math.prod(axes.values()))
        if match[2]:
            ids = _iota(match[2].replace("<=", ""), len(ids))
        grid = ids.reshape(tuple(axes.values()))
        named = [name for name in re.findall(r"'(\w+)'", match[3]) if name in axes]
        over = [list(axes).index(name) for name in named]
        rest = [i for i in range(len(axes)) if i not in over]
        size = math.prod(axes[name] for name in named)
        return grid.transpose([*rest, *over]).reshape(-1, size).tolist()
    if match := re.match(r"\[([\d,]+)\]<=(.*)$", text):
        ids = _iota(match[2], n_devices)
        return ids.reshape([int(n) for n in match[1].split(",")]).tolist()
    if inner := re.findall(r"\{([\d,]+)\}", text):
        return [[int(n) for n in group.split(",")] for group in inner]
    return [list(range(n_devices))]


def _iota(text: str, size: int) -> np.ndarray:
    """`[8]`, or `[2,4]T(1,0)`: the numbers from 0 in that shape, transposed, as one row."""
    match = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text.strip())
    if match is None:
        return np.arange(size)
    grid = np.arange(size).reshape([int(n) for n in match[1].split(",")])
    if match[2]:
        grid = grid.transpose([int(n) for n in match[2].split(",")])
    return grid.reshape(-1)


def _axes_of_groups(groups: Sequence[Sequence[int]], mesh_shape: dict[str, int]) -> str:
    """Axes along which the members of a group differ; empty for groups of one."""
    spread: set[str] = set()
    for group in groups:
        spread |= _spread(group, mesh_shape)
    return "+".join(name for name in mesh_shape if name in spread)


def _axes_of_pairs(pairs: np.ndarray, mesh_shape: dict[str, int]) -> str:
    spread: set[str] = set()
    for pair in pairs:
        spread |= _spread(pair.tolist(), mesh_shape)
    return "+".join(name for name in mesh_shape if name in spread)


def _spread(devices: Sequence[int], mesh_shape: dict[str, int]) -> set[str]:
    if max(devices, default=0) >= math.prod(mesh_shape.values()):
        return {"?"}
    places = np.array(np.unravel_index(np.asarray(devices), tuple(mesh_shape.values())))
    return {name for name, row in zip(mesh_shape, places, strict=True) if len(set(row.tolist())) > 1}
