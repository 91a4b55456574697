"""Compiled programs as text, read: computations and their instructions, sizes of arrays, trip counts of loops.

The text is what `compiled.as_text()` gives on any platform: scheduled HLO, in which loops are `while` instructions
and each instruction says which line of the program it comes from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

_BITS = {
    "pred": 8, "s2": 2, "s4": 4, "s8": 8, "s16": 16, "s32": 32, "s64": 64, "u2": 2, "u4": 4, "u8": 8, "u16": 16,
    "u32": 32, "u64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "f4e2m1fn": 4,
    "f8e8m0fnu": 8, "f8e4m3fn": 8, "f8e5m2": 8, "f8e4m3": 8, "f8e4m3b11fnuz": 8, "f8e4m3fnuz": 8, "f8e5m2fnuz": 8,
    "f8e3m4": 8, "token": 0, "opaque": 0,
}  # fmt: skip
_ARRAY = re.compile(r"([a-z]+[a-z0-9]*)\[([^\]]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(
    r"\b(?:calls|body|condition|to_apply|branch_computations|called_computations)=(\{[^}]*\}|%[\w.\-]+)"
)
HOST = 5
"""Memory space of the host, in layouts; 0 is the device's own, others are small on-chip ones."""


class Shape(NamedTuple):
    """One array: element type, dimensions, bytes with the padding of its tiles, memory space (0: main memory)."""

    dtype: str
    dims: tuple[int, ...]
    bytes: int
    space: int

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


class Frame(NamedTuple):
    """A place in the program: file, line, and the function's name."""

    file: str
    line: int
    function: str


class Instruction:
    """One line of a computation; what is rarely asked for is read when it is asked for."""

    __slots__ = ("_cache", "attributes", "name", "opcode", "operand_text", "root", "type")

    def __init__(self, name: str, root: bool, type_: str, opcode: str, operand_text: str, attributes: str):
        self.name, self.root, self.type, self.opcode = name, root, type_, opcode
        self.operand_text, self.attributes = operand_text, attributes
        self._cache: dict[str, Any] = {}

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        if "operands" not in self._cache:
            self._cache["operands"] = _NAME.findall(self.operand_text)
        return self._cache["operands"]

    @property
    def shape(self) -> Any:
        """A `Shape`, or a list of them for a tuple (nested as it is)."""
        if "shape" not in self._cache:
            self._cache["shape"] = parse_shape(self.type)
        return self._cache["shape"]

    @property
    def arrays(self) -> list[Shape]:
        """Every array of the result."""
        return list(leaves(self.shape))

    @property
    def calls(self) -> list[str]:
        """Computations that it runs."""
        return [name for part in _CALLS.findall(self.attributes) for name in _NAME.findall(part)]

    def attribute(self, name: str) -> str | None:
        """The text of an attribute up to the next comma that is not inside brackets; None without it."""
        match = re.search(rf"(?:^|[ ,]){name}=", self.attributes)
        if match is None:
            return None
        depth, start = 0, match.end()
        for i in range(start, len(self.attributes)):
            c = self.attributes[i]
            depth += (c in "{[(") - (c in "}])")
            if c == "," and depth == 0:
                return self.attributes[start:i]
        return self.attributes[start:]

    @property
    def op_name(self) -> str:
        """The path of JAX operations that it comes from; of a parameter, the argument's name. May be empty."""
        match = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return match[1] if match else ""

    @property
    def frame_id(self) -> int | None:
        """Number of its place in the program."""
        match = re.search(r"stack_frame_id=(\d+)", self.attributes)
        return int(match[1]) if match else None


class Computation(NamedTuple):
    """Instructions in the order in which they run."""

    name: str
    instructions: list[Instruction]
    by_name: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The instruction whose result is the computation's."""
        return next(i for i in reversed(self.instructions) if i.root)

    def parameters(self) -> dict[int, Instruction]:
        """Number -> parameter."""
        return {int(i.operand_text): i for i in self.instructions if i.opcode == "parameter"}


class Module:
    """A whole program."""

    def __init__(
        self, header: str, computations: dict[str, Computation], entry: str, tables: dict[str, list[str]]
    ):
        self.header, self.computations, self.entry_name, self._tables = header, computations, entry, tables

    @property
    def entry(self) -> Computation:
        """Where it begins."""
        return self.computations[self.entry_name]

    def called(self, instruction: Instruction) -> list[Computation]:
        """The computations that an instruction runs."""
        return [self.computations[name] for name in instruction.calls if name in self.computations]

    def aliased_outputs(self) -> dict[tuple[int, ...], int]:
        """Path of an output -> number of the (donated) parameter whose memory it takes over."""
        match = re.search(r"input_output_alias=\{(.*?)\}, entry_computation_layout", self.header)
        pairs = re.findall(r"\{([\d, ]*)\}: \((\d+), \{[^}]*\}", match[1]) if match else []
        return {tuple(int(i) for i in path.replace(" ", "").split(",") if i): int(n) for path, n in pairs}

    @cached_property
    def executions(self) -> dict[str, float]:
        """Computation -> how often one run of the program runs it. A loop of unknown length counts once."""
        return _executions(self)

    @cached_property
    def unknown_loops(self) -> int:
        """Loops whose trip count could not be found."""
        loops = [i for c in self.computations.values() for i in c.instructions if i.opcode == "while"]
        return sum(trip_count(self, c, i) is None for c in self.computations.values() for i in c.instructions
                   if i.opcode == "while") if loops else 0  # fmt: skip

    def stack(self, instruction: Instruction) -> list[Frame]:
        """Where it comes from, innermost call first."""
        frames, number = [], instruction.frame_id
        while number:
            row = self._table("StackFrames").get(number)
            place = self._table("FileLocations").get(row.get("file_location_id", 0), {}) if row else {}
            if row is None:
                break
            names = self._table("FunctionNames"), self._table("FileNames")
            function, file = (
                names[0].get(place.get("function_name_id")),
                names[1].get(place.get("file_name_id")),
            )
            frames.append(Frame(str(file), int(place.get("line", 0)), str(function)))
            number = (
                row.get("parent_frame_id", 1) - 1
            )  # counted from 1, where the numbers of frames have 0 for none
        return frames

    def _table(self, name: str) -> dict[Any, Any]:
        parsed = self.__dict__.setdefault("_parsed", {})
        if name not in parsed:
            parsed[name] = {}
            for line in self._tables.get(name, []):
                number, _, rest = line.partition(" ")
                value: Any = rest.strip('"')
                if rest.startswith("{"):
                    value = {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", rest)}
                parsed[name][int(number)] = value
        return parsed[name]


def leaves(shape: Any) -> Iterator[Shape]:
    """The arrays of a shape, in order."""
    if isinstance(shape, Shape):
        yield shape
    else:
        for part in shape:
            yield from leaves(part)


def parse_shape(text: str) -> Any:
    """`f32[8,128]{1,0:T(8,128)}`, or a tuple of such in parentheses."""
    text = re.sub(r"/\*.*?\*/", "", text).strip()
    if not text.startswith("("):
        match = _ARRAY.match(text)
        return _array(match) if match else []
    parts, depth, start = [], 0, 1
    for i, c in enumerate(text[1:-1], 1):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    last = text[start:-1].strip()
    return [parse_shape(part) for part in [*parts, *([last] if last else [])]]


def _array(match: re.Match[str]) -> Shape:
    dtype, layout = match[1], match[3] or ""
    dims = tuple(int(re.sub(r"\D", "", d)) for d in match[2].split(",") if d.strip())
    space = re.search(r"S\((\d+)\)", layout)
    order = layout.partition(":")[0]
    minor = [int(i) for i in order.split(",") if i.strip().isdigit()]
    padded = [dims[i] for i in minor] if len(minor) == len(dims) else list(reversed(dims))
    tile = re.search(r"T\(([\d,]+)\)", layout)
    if tile:
        for place, size in enumerate(reversed([int(n) for n in tile[1].split(",")])):
            if place < len(padded):
                padded[place] = -(-padded[place] // size) * size
            elif place == 0:
                padded.append(size)
    bits = re.search(r"E\((\d+)\)", layout)
    each = int(bits[1]) if bits else _BITS.get(dtype, 32)
    return Shape(dtype, dims, math.ceil(math.prod(padded) * each / 8), int(space[1]) if space else 0)


def trip_count(module: Module, inside: Computation, loop: Instruction) -> int | None:
    """How often the body of `loop`, an instruction of `inside`, runs: known by the compiler, or from its condition."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition = loop.attribute("condition")
    computation = module.computations.get((condition or "").lstrip("%"))
    if computation is None:
        return None
    compare = _compare(module, computation)
    if compare is None:
        return None
    limit, counter = compare
    start = _initial(inside, loop, counter)
    return None if start is None else max(-(-(limit - start) // _stride(module, loop, counter)), 0)


def _compare(module: Module, condition: Computation) -> tuple[int, int] | None:
    """(limit, index of the counter) of `counter < limit`."""
    root = condition.root
    operands = [condition.by_name.get(name) for name in root.operands]
    less = root.opcode == "compare" and "direction=LT" in root.attributes
    if root.opcode == "fusion":
        inner = module.called(root)
        less = bool(inner) and "direction=LT" in inner[0].root.attributes
    constants = [o for o in operands if o is not None and o.opcode == "constant"]
    counters = [o for o in operands if o is not None and o.opcode == "get-tuple-element"]
    if not less or len(constants) != 1 or len(counters) != 1 or not constants[0].operand_text.isdigit():
        return None
    return int(constants[0].operand_text), int(counters[0].attribute("index") or 0)


def _stride(module: Module, loop: Instruction, counter: int) -> int:
    """What a round adds to the counter: 2 where the compiler put two rounds into one; 1 where that is not seen."""
    body = module.computations.get((loop.attribute("body") or "").lstrip("%"))
    if body is None or body.root.opcode != "tuple":
        return 1
    value = body.by_name.get(body.root.operands[counter])
    while value is not None and value.opcode in ("copy", "bitcast") and value.operands:
        value = body.by_name.get(value.operands[0])
    if value is None or value.opcode != "add":
        return 1
    for operand in (body.by_name.get(name) for name in value.operands):
        if operand is not None and operand.opcode == "constant" and operand.operand_text.isdigit():
            return max(int(operand.operand_text), 1)
    return 1


def _initial(inside: Computation, loop: Instruction, counter: int) -> int | None:
    start = inside.by_name.get(loop.operands[0]) if loop.operands else None
    if start is None or start.opcode != "tuple":
        return None
    value = inside.by_name.get(start.operands[counter])
    while value is not None and value.opcode in ("copy", "bitcast") and value.operands:
        value = inside.by_name.get(value.operands[0])
    if value is None or value.opcode != "constant" or not value.operand_text.lstrip("-").isdigit():
        return None
    return int(value.operand_text)


def _executions(module: Module) -> dict[str, float]:
    counts = dict.fromkeys(module.computations, 0.0)
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name not in module.computations:
            return
        seen.add(name)
        for instruction in module.computations[name].instructions:
            for called in instruction.calls:
                visit(called)
        order.append(name)

    visit(module.entry_name)
    counts[module.entry_name] = 1.0
    for name in reversed(order):  # callers before what they call
        computation = module.computations[name]
        for instruction in computation.instructions:
            times = 1
            if instruction.opcode == "while":
                times = trip_count(module, computation, instruction) or 1
            for called in instruction.calls:
                if called in counts:
                    counts[called] += counts[name] * times
    return counts
