"""What a program that the TPU's compiler refused would have held: from the files that it leaves on its way.

The refusal itself names no tensor, and no option lifts the limit (libtpu 0.0.42).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from lmx.review.programs import Memory

_ALLOCATION = re.compile(r"^allocation \d+: size (\d+)(?P<attributes>.*?):?$", re.MULTILINE)


class Dump(NamedTuple):
    """A folder that a compiler writes into, and the option that makes it write."""

    folder: Path
    options: dict[str, Any]

    def program(self) -> str | None:
        """The text of the program as it was laid into memory; None where the compiler did not get that far."""
        return self._read("after_optimizations.txt")

    def memory(self) -> Memory | None:
        """What it would take of a device; None where the compiler did not get that far."""
        found = self._read("after_optimizations-buffer-assignment.txt")
        return None if found is None else memory_of_allocations(found)

    def _read(self, name: str) -> str | None:
        # More than one where the program has small ones beside it.
        paths = sorted(self.folder.glob(f"**/*.{name}"), key=lambda path: path.stat().st_size)
        return paths[-1].read_text(encoding="utf-8", errors="replace") if paths else None


@contextmanager
def dump(*, wanted: bool) -> Iterator[Dump]:
    """A folder for one compilation, gone afterwards; without options where it is not `wanted`."""
    with TemporaryDirectory(prefix="lmx-compile-") as folder:
        yield Dump(Path(folder), {"xla_dump_to": folder} if wanted else {})


def memory_of_allocations(text: str) -> Memory:
    """Bytes of a device, from a buffer assignment of XLA's; what has a color lies in other memory."""
    arguments = outputs = rest = 0
    for match in _ALLOCATION.finditer(text):
        size, attributes = int(match[1]), match["attributes"]
        if re.search(r", color \d", attributes):
            continue
        if re.search(r", parameter \d", attributes):
            arguments += size
        elif "maybe-live-out" in attributes:
            outputs += size
        else:
            rest += size
    return Memory(arguments=arguments, outputs=outputs, temporaries=rest, host=0, told=rest)
