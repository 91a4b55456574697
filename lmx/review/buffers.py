"""What lies in a device's memory at the moment of most: which buffers, how large, and of which tensor.

The compiler tells totals only. Here the schedule of the compiled program is walked, each buffer from the instruction
that makes it to the last that reads it, loops and branches inside. In-place updates and donated arguments take the
memory of what they replace. The sum of the buffers found is an estimate of the compiler's own figure (its packing
leaves gaps, and it overlaps more than this walk knows); the buffers themselves are the program's.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from lmx.review.hlo import HOST, Computation, Instruction, Module, Shape, leaves

_ALIASES = {"bitcast", "optimization-barrier", "copy-done", "slice-done", "add-dependency", "domain"}
_FREE = {"parameter", "constant", "iota", "after-all", "partition-id", "replica-id"}
_IN_PLACE = {
    "add",
    "subtract",
    "multiply",
    "divide",
    "select",
    "convert",
    "maximum",
    "minimum",
    "copy",
    "negate",
}


class Buffer(NamedTuple):
    """One array in memory: where it was made (computation, instruction), what it is, its bytes."""

    computation: str
    instruction: str
    shape: Shape

    @property
    def bytes(self) -> int:
        """With the padding of its tiles."""
        return self.shape.bytes


class Peak(NamedTuple):
    """The moment of most: bytes of temporaries, and the buffers that lie there."""

    bytes: int
    buffers: list[Buffer]


_EXTERNAL = -1
Value = Any
"""Number of a buffer, or a list of `Value`s for a tuple."""


class _Walk:
    """One computation's schedule: which buffer each value lies in, from when to when."""

    def __init__(self, module: Module, computation: Computation, memo: dict[str, Peak], *, entry: bool):
        self.module, self.computation, self.memo = module, computation, memo
        self.values: dict[str, Value] = {}
        self.buffers: list[Buffer] = []
        self.born: list[int] = []
        self.dies: list[int] = []
        self.inner: list[Peak | None] = []
        for place, instruction in enumerate(computation.instructions):
            self.values[instruction.name] = self._value(instruction, place)
            self.inner.append(self._inside(instruction))
        self._last_uses()
        self._take_over(computation, entry)

    # ---- which buffer a value lies in

    def _new(self, shape: Any, instruction: Instruction, place: int) -> Value:
        if not isinstance(shape, Shape):
            return [self._new(part, instruction, place) for part in shape]
        if shape.space or not shape.bytes:
            return _EXTERNAL
        self.buffers.append(Buffer(self.computation.name, instruction.name, shape))
        self.born.append(place)
        self.dies.append(place)
        return len(self.buffers) - 1

    def _operand(self, instruction: Instruction, number: int = 0) -> Value:
        names = instruction.operands
        return self.values.get(names[number], _EXTERNAL) if number < len(names) else _EXTERNAL

    def _value(self, instruction: Instruction, place: int) -> Value:
        opcode, shape = instruction.opcode, instruction.shape
        if opcode in _FREE:
            return _like(shape)
        if opcode == "tuple":
            return [self.values.get(name, _EXTERNAL) for name in instruction.operands]
        if opcode == "get-tuple-element":
            return _pick(self._operand(instruction), (int(instruction.attribute("index") or 0),))
        if opcode in _ALIASES:
            value = self._operand(instruction)
            started = self.computation.by_name.get(instruction.operands[0]) if instruction.operands else None
            if opcode.endswith("-done") and started is not None:
                return _pick(value, (0,) if started.opcode == "copy-start" else (1,))
            return value
        if opcode == "while":
            return self._operand(instruction)
        if opcode.endswith("-done"):
            value = self._operand(instruction)
            return _pick(value, (1,)) if isinstance(value, list) and len(value) > 1 else value
        if opcode.endswith("-start") and isinstance(shape, list) and len(shape) > 1:
            fresh = 0 if opcode == "copy-start" else 1
            made = [self._new(p, instruction, place) if i == fresh else _like(p) for i, p in enumerate(shape)]
            if opcode != "copy-start":
                made[0] = self._operand(instruction)
            return made
        return self._aliased(instruction, self._new_unless_in_place(instruction, place))

    def _new_unless_in_place(self, instruction: Instruction, place: int) -> Value:
        """A new buffer, or for an update in place that of the operand it updates."""
        target = self._updated(instruction)
        if target is not None:
            return target
        return self._new(instruction.shape, instruction, place)

    def _updated(self, instruction: Instruction) -> Value | None:
        if instruction.opcode == "dynamic-update-slice":
            return self._operand(instruction)
        if instruction.opcode != "fusion" or not isinstance(instruction.shape, Shape):
            return None
        called = self.module.called(instruction)
        number = _updated_parameter(called[0]) if called else None
        if number is None:
            return None
        operand = self.computation.by_name.get(instruction.operands[number])
        if (
            operand is not None
            and isinstance(operand.shape, Shape)
            and operand.shape.dims == instruction.shape.dims
        ):
            return self._operand(instruction, number)
        return None

    def _aliased(self, instruction: Instruction, value: Value) -> Value:
        """`value` with the parts that the compiler says lie where an operand lies."""
        text = instruction.attribute("output_to_operand_aliasing") or ""
        for path, number, inner in re.findall(r"\{([\d, ]*)\}: \((\d+), \{([\d, ]*)\}", text):
            source = _pick(self._operand(instruction, int(number)), _numbers(inner))
            value = _put(value, _numbers(path), source)
        return value

    def _inside(self, instruction: Instruction) -> Peak | None:
        """What an instruction's own computations need while it runs."""
        if instruction.opcode not in ("while", "conditional", "call"):
            return None
        peaks = [peak_of(self.module, called, self.memo) for called in self.module.called(instruction)]
        return max(peaks, key=lambda p: p.bytes, default=None)

    # ---- from when to when

    def _last_uses(self) -> None:
        for place, instruction in enumerate(self.computation.instructions):
            # Of a tuple only the part that is taken is used.
            taken = instruction.opcode == "get-tuple-element"
            for name in [instruction.name] if taken else instruction.operands:
                for number in _flat(self.values.get(name, _EXTERNAL)):
                    if number >= 0:
                        self.dies[number] = max(self.dies[number], place)
        # What an elementwise instruction reads last, its result may overwrite.
        for place, instruction in enumerate(self.computation.instructions):
            if not (instruction.opcode in _IN_PLACE or "kind=kLoop" in instruction.attributes):
                continue
            for made in _flat(self.values[instruction.name]):
                if made < 0 or self.born[made] != place:
                    continue
                for name in instruction.operands:
                    read = self.values.get(name)
                    same = isinstance(read, int) and read >= 0 and self.dies[read] == place and read != made
                    if same and self.buffers[read].bytes == self.buffers[made].bytes:  # type: ignore[index]
                        self.dies[read] = place - 1  # type: ignore[index]
                        break

    def _take_over(self, computation: Computation, entry: bool) -> None:
        """Results: of a loop's body they lie in the loop's own buffers, of the program in donated arguments."""
        result = self.values[computation.root.name]
        end = len(computation.instructions)
        if not entry:
            self._outside(_flat(result))
            return
        for number in _flat(result):
            if number >= 0:
                self.dies[number] = end
        donated = self.module.aliased_outputs()
        for path in [(), *((i,) for i in range(len(result) if isinstance(result, list) else 0))]:
            if path in donated:
                self._outside(_flat(_pick(result, path)))

    def _outside(self, numbers: list[int]) -> None:
        for number in numbers:
            if number >= 0:
                self.born[number], self.dies[number] = 1, 0

    def peak(self) -> Peak:
        """The instruction at which most lies in memory."""
        n = len(self.computation.instructions)
        change = [0] * (n + 2)
        for buffer, born, dies in zip(self.buffers, self.born, self.dies, strict=True):
            if born <= dies:
                change[born] += buffer.bytes
                change[dies + 1] -= buffer.bytes
        best, at, live = 0, -1, 0
        for place in range(n):
            live += change[place]
            inner = self.inner[place]
            total = live + (inner.bytes if inner else 0)
            if total > best:
                best, at = total, place
        if at < 0:
            return Peak(0, [])
        there = [b for b, s, e in zip(self.buffers, self.born, self.dies, strict=True) if s <= at <= e]
        inner = self.inner[at]
        return Peak(best, there + (inner.buffers if inner else []))


def peak_of(module: Module, computation: Computation, memo: dict[str, Peak] | None = None) -> Peak:
    """Temporaries of a computation at its moment of most; of the entry, arguments and donated results do not count."""
    memo = {} if memo is None else memo
    if computation.name not in memo:
        entry = computation.name == module.entry_name
        memo[computation.name] = _Walk(module, computation, memo, entry=entry).peak()
    return memo[computation.name]


def arguments(module: Module) -> list[Buffer]:
    """The program's arguments in device memory."""
    entry = module.entry
    found = []
    for parameter in entry.parameters().values():
        for shape in leaves(parameter.shape):
            if shape.space != HOST:
                found.append(Buffer(entry.name, parameter.name, shape))
    return found


def _updated_parameter(computation: Computation) -> int | None:
    """Number of the parameter that a fusion updates in place: its root writes a slice of it."""
    value: Instruction | None = computation.root
    while value is not None and value.opcode in ("bitcast", "copy") and value.operands:
        value = computation.by_name.get(value.operands[0])
    if value is None or value.opcode != "dynamic-update-slice":
        return None
    value = computation.by_name.get(value.operands[0])
    while value is not None and value.opcode in ("bitcast", "convert") and value.operands:
        value = computation.by_name.get(value.operands[0])
    return int(value.operand_text) if value is not None and value.opcode == "parameter" else None


def _like(shape: Any) -> Value:
    return _EXTERNAL if isinstance(shape, Shape) else [_like(part) for part in shape]


def _pick(value: Value, path: tuple[int, ...]) -> Value:
    for number in path:
        if not isinstance(value, list):
            return value
        value = value[number] if number < len(value) else _EXTERNAL
    return value


def _put(value: Value, path: tuple[int, ...], new: Value) -> Value:
    if not path or not isinstance(value, list):
        return new
    return [_put(part, path[1:], new) if i == path[0] else part for i, part in enumerate(value)]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.replace(" ", "").split(",") if n)


def _flat(value: Value) -> list[int]:
    return [value] if isinstance(value, int) else [n for part in value for n in _flat(part)]
