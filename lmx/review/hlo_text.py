"""The text of a compiled program, read line by line."""

from __future__ import annotations

import re

from lmx.review.hlo import Computation, Instruction, Module

_HEAD = re.compile(r"^(ENTRY )?%([\w.\-]+) \(")
_LINE = re.compile(r"^  (ROOT )?%([\w.\-]+) = ")


def parse(text: str) -> Module:
    """The module of `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    tables: dict[str, list[str]] = {}
    header, entry, current, table = "", "", None, None
    for line in text.splitlines():
        if current is not None:
            if line.rstrip() == "}" or line.startswith("}, execution_thread"):
                current = None
            elif match := _LINE.match(line):
                instruction = _instruction(line, match)
                current.instructions.append(instruction)
                current.by_name[instruction.name] = instruction
            elif current.instructions:  # what a kernel says of itself may have line ends in it
                current.instructions[-1].attributes += f" {line}"
        elif match := _HEAD.match(line):
            current, table = Computation(match[2], [], {}), None
            computations[match[2]] = current
            entry = match[2] if match[1] else entry
        elif line.startswith("HloModule"):
            header = line
        elif line and not line[0].isdigit():
            table = tables.setdefault(line.strip(), [])
        elif line and table is not None:
            table.append(line)
    return Module(header, computations, entry, tables)


def _instruction(line: str, match: re.Match[str]) -> Instruction:
    rest = line[match.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    type_, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest)
    return Instruction(match[2], bool(match[1]), type_, opcode, rest[: end - 1], rest[end:])


def _closing(text: str) -> int:
    """Index of the parenthesis that closes the one at the start."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return i
    return len(text) - 1
