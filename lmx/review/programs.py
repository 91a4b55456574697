"""What a compiled program takes: memory of a device by tensor, bytes between devices, time to compile."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lmx.review.buffers import Buffer, arguments, peak_of
from lmx.review.collectives import Collective, collectives
from lmx.review.hlo_text import parse
from lmx.review.names import Namer, shapes_of_parameters

LARGEST = 10
"""Buffers that are named."""


class Tensor(NamedTuple):
    """Buffers of one name and shape: `bytes` of all `count` of them; `kind` is argument or temporary."""

    name: str
    shape: str
    bytes: int
    count: int
    kind: str


class Memory(NamedTuple):
    """Bytes on one device.

    arguments   what is there when the program starts: state and batch
    outputs     results that do not lie in donated arguments
    temporaries what it needs besides, at most
    host        arguments, results and temporaries that lie in the host's memory
    told        temporaries as `memory_analysis()` has them: on TPU more than the program allocates
    """

    arguments: int
    outputs: int
    temporaries: int
    host: int
    told: int

    @property
    def peak(self) -> int:
        """All of it on the device."""
        return self.arguments + self.outputs + self.temporaries


class Found(NamedTuple):
    """What the text of a program says.

    buffers     the largest at the moment of most memory, arguments among them
    seen_bytes  temporaries that the walk through the program sums up to (see `lmx.review.buffers`)
    """

    buffers: list[Tensor]
    collectives: list[Collective]
    seen_bytes: int


def memory_of(compiled: Any, platform: str) -> Memory:
    """From `compiled.memory_analysis()`.

    On TPU `peak_memory_in_bytes` is what the program's buffers are laid into, arguments and results among them (the
    same total as in the compiler's own memory report); on other platforms it leaves temporaries out.
    """
    m = compiled.memory_analysis()
    host = m.host_argument_size_in_bytes + m.host_output_size_in_bytes + m.host_temp_size_in_bytes
    outputs = m.output_size_in_bytes - m.alias_size_in_bytes
    laid = m.peak_memory_in_bytes - m.argument_size_in_bytes - outputs
    return Memory(
        arguments=m.argument_size_in_bytes,
        outputs=outputs,
        temporaries=max(laid, 0) if platform == "tpu" else m.temp_size_in_bytes,
        host=host - m.host_alias_size_in_bytes,
        told=m.temp_size_in_bytes,
    )


def read_program(
    text: str, mesh_shape: dict[str, int], *, between: Mapping[str, int] | None = None, largest: int = LARGEST
) -> Found:
    """The largest buffers by name, and the collectives (as `collectives` takes them), of `compiled.as_text()`."""
    module = parse(text)
    peak = peak_of(module, module.entry)
    namer = Namer(module, shapes_of_parameters(module))
    tensors = [
        *_gathered(namer, peak.buffers, "temporary", largest),
        *_gathered(namer, arguments(module), "argument", largest),
    ]
    tensors.sort(key=lambda t: -t.bytes)
    return Found(tensors[:largest], collectives(module, mesh_shape, between), peak.bytes)


def _gathered(namer: Namer, buffers: Sequence[Buffer], kind: str, largest: int) -> list[Tensor]:
    """The largest, those of one name and shape together."""
    groups: dict[tuple[str, str], list[int]] = {}
    # Names cost time; small buffers cannot matter unless there are thousands of them.
    for buffer in sorted(buffers, key=lambda b: -b.bytes)[: 20 * largest]:
        groups.setdefault((namer(buffer), str(buffer.shape)), []).append(buffer.bytes)
    found = [Tensor(name, shape, sum(sizes), len(sizes), kind) for (name, shape), sizes in groups.items()]
    return sorted(found, key=lambda t: -t.bytes)[:largest]


def needed_bytes(message: str) -> int | None:
    """Bytes that a program wants, from the compiler's refusal (`... (17.05G) exceeds available HBM (15.75G)`)."""
    match = re.search(r"\(([\d.]+)([KMGT])\) exceeds", message) or re.search(
        r"Used ([\d.]+)([KMGT]) of", message
    )
    return None if match is None else int(float(match[1]) * 1024 ** ("KMGT".index(match[2]) + 1))


def does_not_fit(error: BaseException) -> bool:
    """Whether the compiler refused a program because it needs more memory than there is."""
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "Ran out of memory" in text
