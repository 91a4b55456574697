"""Names of buffers: an argument's path, or the part of the model that a temporary belongs to and what it is there.

Each instruction says which part of the model it is of (`lmx.review.scopes`), and which line of which function it comes
from; the variable that this line assigns follows the part. What a loop gathers or carries is named by what the loop's
body puts there.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from lmx.layers.names import BLOCK_INPUT
from lmx.review.buffers import Buffer
from lmx.review.hlo import Computation, Frame, Instruction, Module, Shape
from lmx.review.scopes import layers_in, part_of

PACKAGE = str(Path(__file__).resolve().parents[1])
_PASSED = {
    "bitcast",
    "copy",
    "convert",
    "reshape",
    "transpose",
    "broadcast",
    "copy-done",
    "copy-start",
    "slice",
}
_MOVING = _PASSED | {"parameter", "constant", "dynamic-slice", "tuple", "all-gather-done"}
_OF_INDICES = {"compare", "select", "add", "subtract", "multiply"}
_UNNAMING = ("layers/kernels.py", "layers/activations.py")
_ASSIGNED = re.compile(
    r"^\s*(?:return\b|(\(?[A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*\)?)\s*(?::[^=]+)?(?:[-+*/]|)=(?!=))"
)


def argument_name(op_name: str) -> str:
    """`state.params['layers'][0]['mlp']['up']` as `params.layers.0.mlp.up`."""
    text = op_name.replace("\\'", "'")
    text = re.sub(
        r"\[(?:'([^']*)'|<flat index (\d+)>|(\d+))\]", lambda m: "." + next(g for g in m.groups() if g), text
    )
    return re.sub(r"^(?:state|args|kwargs)\.", "", text)


class Namer:
    """Names for the buffers of one program."""

    def __init__(self, module: Module, parameters: dict[tuple[int, ...], list[str]] | None = None):
        """`parameters`: shape of a parameter's part on one device -> names of the parameters that have it."""
        self.module = module
        self.parameters = parameters or {}
        self._users: dict[str, dict[str, list[Instruction]]] = {}
        self._called_from: dict[str, tuple[Computation, Instruction]] = {}

    def __call__(self, buffer: Buffer) -> str:
        """Name of a buffer: `params.layers.0.mlp.up`, `gradient of ...`, `layers.0.mlp.up: y_BTF (...)`."""
        computation = self.module.computations[buffer.computation]
        instruction = computation.by_name[buffer.instruction]
        if instruction.opcode == "parameter":
            return argument_name(instruction.op_name) or instruction.name
        weight = self._weight(computation, instruction)
        if weight is not None:
            return weight
        filled = self._loop_that_fills(computation, instruction, 0)
        if filled is not None and _from_carry(*filled) and (layers := layers_in(filled[0])):
            return f"{layers}.{BLOCK_INPUT}, of every layer"
        found, stacked = self._source(computation, instruction, 0)
        backward = "transpose(" in found.op_name or "transpose(" in instruction.op_name
        part = part_of(found.op_name) or part_of(instruction.op_name)
        alike = self.parameters.get(buffer.shape.dims, [])
        alike = [name for name in alike if part and name.startswith(part)] or alike
        product = "dot_general" in found.op_name or "dot_general" in instruction.op_name
        if alike and backward and (stacked or product):
            return f"gradient of {_joined(alike)}"
        name = self.place(found) or self.place(instruction)
        name = f"{part}: {name}" if part and name else part or name
        if alike and not name:
            return f"like {_joined(alike)}"
        name = name or _operation(found.op_name) or _operation(instruction.op_name) or instruction.name
        if stacked:
            return f"{name}, of every layer"
        if "rematted_computation" in found.op_name:
            return f"{name}, computed again"
        return f"{name}, backward" if backward else name

    def _weight(self, inside: Computation, value: Instruction) -> str | None:
        """What a value is that a parameter becomes by moving and casting alone; None for any other."""
        gathered, whole = False, True
        for _ in range(32):
            if value.opcode == "parameter":
                if inside.name == self.module.entry_name:
                    name = argument_name(value.op_name)
                    if not name.startswith("params."):
                        return None
                    part = "" if whole else ", one layer"
                    return f"{name.removeprefix('params.')}, {'gathered' if gathered else 'copied'}{part}"
                return None
            gathered = gathered or value.opcode.startswith("all-gather")
            if value.opcode == "fusion":
                called = self.module.called(value)
                if not called or not all(_moves(i) for i in called[0].instructions):
                    return None
                gathered = gathered or any("all-gather" in i.opcode for i in called[0].instructions)
                whole = whole and all(i.opcode != "dynamic-slice" for i in called[0].instructions)
            elif value.opcode == "get-tuple-element":
                before = inside.by_name.get(value.operands[0])
                index = int(value.attribute("index") or 0)
                if before is not None and before.opcode == "parameter":
                    outer = self._carried(inside, index)
                    if outer is None:
                        return None
                    inside, value = outer
                    continue
                if before is not None and before.opcode == "while":
                    body = self.module.computations[(before.attribute("body") or "").lstrip("%")]
                    start = inside.by_name.get(before.operands[0])
                    if not _unchanged(body, index) or start is None or start.opcode != "tuple":
                        return None
                    value = inside.by_name[start.operands[index]]
                    continue
                if before is not None and before.opcode == "tuple":
                    value = inside.by_name[before.operands[index]]
                    continue
            elif not _moves(value):
                return None
            whole = whole and value.opcode != "dynamic-slice"
            operands = [o for o in (inside.by_name.get(n) for n in value.operands) if o is not None]
            if not operands:
                return None
            value = max(operands, key=lambda o: sum(a.bytes for a in o.arrays))
        return None

    def _carried(self, body: Computation, index: int) -> tuple[Computation, Instruction] | None:
        """What part `index` of a loop's carry is outside, where the loop does not change it."""
        caller = self._callers().get(body.name)
        if caller is None or caller[1].opcode != "while":
            return None
        if not _unchanged(body, index):
            return None
        inside, loop = caller
        start = inside.by_name.get(loop.operands[0])
        if start is None or start.opcode != "tuple":
            return None
        outer = inside.by_name.get(start.operands[index])
        return None if outer is None else (inside, outer)

    def _callers(self) -> dict[str, tuple[Computation, Instruction]]:
        if not self._called_from:
            for computation in self.module.computations.values():
                for instruction in computation.instructions:
                    for name in instruction.calls:
                        self._called_from[name] = (computation, instruction)
        return self._called_from

    def place(self, instruction: Instruction) -> str:
        """`variable in function (file:line)`, of the innermost line that is the package's; empty where none is."""
        frames = self.module.stack(instruction)
        own = [frame for frame in frames if frame.file.startswith(PACKAGE)]
        # The innermost line that gives its result a name: what a kernel returns is named where it is called.
        named = [f for f in own if assigned(f.file, f.line) and not f.file.endswith(_UNNAMING)]
        return place_name((named or own)[0]) if own else ""

    # ---- where a value comes from

    def _source(self, inside: Computation, value: Instruction, depth: int) -> tuple[Instruction, bool]:
        """The instruction that says most of what `value` holds, and whether it is a loop's stack of them."""
        loop = self._loop_that_fills(inside, value, 0) if depth < 3 else None
        if loop is not None:
            body, written = loop
            return self._source(body, written, depth + 1)[0], True
        while value.opcode in _PASSED and value.operands and not self.place(value):
            before = inside.by_name.get(value.operands[0])
            if before is None:
                break
            value = before
        if value.opcode == "fusion" and not self.place(value) and (called := self.module.called(value)):
            root = called[0].root
            if self.place(root):
                return root, False
        return value, False

    def _uses(self, inside: Computation) -> dict[str, list[Instruction]]:
        if inside.name not in self._users:
            users: dict[str, list[Instruction]] = {}
            for instruction in inside.instructions:
                for name in instruction.operands:
                    users.setdefault(name, []).append(instruction)
            self._users[inside.name] = users
        return self._users[inside.name]

    def _loop_that_fills(
        self, inside: Computation, value: Instruction, depth: int
    ) -> tuple[Computation, Instruction] | None:
        """The body of a loop that writes into `value` a slice at a time, and what it writes."""
        for user in self._uses(inside).get(value.name, []):
            if user.opcode in ("copy", "bitcast") and depth < 4:
                found = self._loop_that_fills(inside, user, depth + 1)
                if found is not None:
                    return found
            if user.opcode != "tuple":
                continue
            places = [i for i, name in enumerate(user.operands) if name == value.name]
            for loop in self._uses(inside).get(user.name, []):
                if loop.opcode != "while":
                    continue
                body = self.module.computations[(loop.attribute("body") or "").lstrip("%")]
                for place in places:
                    written = self._written(body, place)
                    if written is not None:
                        return body, written
        return None

    def _written(self, body: Computation, place: int) -> Instruction | None:
        """What a loop's body writes as a slice into part `place` of what it carries."""
        root = body.root
        if root.opcode != "tuple" or place >= len(root.operands):
            return None
        value = body.by_name.get(root.operands[place])
        for _ in range(6):
            if value is None:
                return None
            if value.opcode == "dynamic-update-slice":
                return body.by_name.get(value.operands[1])
            if value.opcode == "fusion" and (called := self.module.called(value)):
                return self._slice_of_fusion(body, value, called[0])
            if value.opcode in (*_PASSED, "get-tuple-element") and value.operands:
                index = int(value.attribute("index") or 0) if value.opcode == "get-tuple-element" else None
                before = body.by_name.get(value.operands[0])
                if index is not None and before is not None and before.opcode == "fusion":
                    called = self.module.called(before)
                    return self._slice_of_fusion(body, before, called[0], index) if called else None
                value = before
            else:
                return None
        return None

    def _slice_of_fusion(
        self, body: Computation, fusion: Instruction, inner: Computation, index: int | None = None
    ) -> Instruction | None:
        update: Instruction | None = inner.root
        if index is not None and update.opcode == "tuple":
            update = inner.by_name.get(update.operands[index])
        while update is not None and update.opcode in ("bitcast", "copy") and update.operands:
            update = inner.by_name.get(update.operands[0])
        if update is None or update.opcode != "dynamic-update-slice":
            return None
        written = inner.by_name.get(update.operands[1])
        while written is not None and written.opcode in _PASSED and written.operands:
            written = inner.by_name.get(written.operands[0])
        if written is not None and written.opcode == "parameter":
            return body.by_name.get(fusion.operands[int(written.operand_text)])
        return written


def _from_carry(body: Computation, value: Instruction) -> bool:
    """Whether a value of a loop's body is what the turn before handed on, as it came."""
    seen: Instruction | None = value
    while seen is not None and seen.opcode in (*_PASSED, "get-tuple-element") and seen.operands:
        before = body.by_name.get(seen.operands[0])
        if seen.opcode == "get-tuple-element":
            return before is not None and before.opcode == "parameter"
        seen = before
    return False


def _moves(instruction: Instruction) -> bool:
    """Whether an instruction leaves values as they are, their precision aside."""
    if instruction.opcode in _OF_INDICES:
        return isinstance(instruction.shape, Shape) and not instruction.shape.dims
    return instruction.opcode in _MOVING or instruction.opcode.startswith("all-gather")


def _unchanged(body: Computation, index: int) -> bool:
    """Whether a loop's body hands part `index` of its carry on as it got it."""
    root = body.root
    kept = body.by_name.get(root.operands[index]) if root.opcode == "tuple" else None
    return (
        kept is not None
        and kept.opcode == "get-tuple-element"
        and int(kept.attribute("index") or 0) == index
        and body.by_name[kept.operands[0]].opcode == "parameter"
    )


def _operation(op_name: str) -> str:
    """The last two steps of an operation's path: `splash_mha_fwd/pallas_call`."""
    steps = [step for step in op_name.split("/") if step and not step.startswith("jit(")]
    return "/".join(dict.fromkeys(steps[-3:]))


def place_name(frame: Frame) -> str:
    """`variable in function (layers/mlp.py:40)`."""
    short = frame.file.removeprefix(PACKAGE).lstrip("/")
    function = frame.function.rpartition(".")[2]
    variable = assigned(frame.file, frame.line)
    what = f"{variable} in {function}" if variable else f"result of {function}"
    return f"{what} ({short}:{frame.line})"


@lru_cache(maxsize=4096)
def assigned(file: str, line: int) -> str | None:
    """The variable that the statement around a line assigns; None where it assigns none."""
    for number in range(line, max(line - 8, 0), -1):
        text = linecache.getline(file, number)
        match = _ASSIGNED.match(text)
        if match:
            return match[1].strip("()") if match[1] else None
        if re.match(r"\s*(def|class|with|for|if|while|else|elif|@)\b", text):
            return None
    return None


def shapes_of_parameters(module: Module) -> dict[tuple[int, ...], list[str]]:
    """Shape -> parameters that have it: on one device or whole, of every layer or of one; two dimensions or more."""
    found: dict[tuple[int, ...], list[str]] = {}
    for parameter in module.entry.parameters().values():
        name, shape = argument_name(parameter.op_name), parameter.shape
        if not name.startswith("params.") or not isinstance(shape, Shape):
            continue
        ways = re.search(r"sharding=\{devices=\[([\d,]+)\]", parameter.attributes)
        tiles = [int(n) for n in ways[1].split(",")] if ways else []
        tiles = tiles[: len(shape.dims)] + [1] * (len(shape.dims) - len(tiles))
        whole = tuple(d * n for d, n in zip(shape.dims, tiles, strict=True))
        name = name.removeprefix("params.")
        forms = {shape.dims, whole}
        if name.startswith("layers."):
            forms |= {shape.dims[1:], whole[1:], (1, *shape.dims[1:]), (1, *whole[1:])}
        for form in forms:
            if len(form) > 1 and name not in found.setdefault(form, []):
                found[form].append(name)
    return found


def _joined(names: Sequence[str]) -> str:
    """`layers.0.mlp.gate|up` for names that differ in their end."""
    starts = {name.rpartition(".")[0] for name in names}
    if len(starts) == 1 and len(names) > 1:
        return f"{names[0].rpartition('.')[0]}.{'|'.join(n.rpartition('.')[2] for n in names)}"
    return " or ".join(names[:3])
