"""`xla`: options of the compiler, for the platform that a program is compiled for."""

from __future__ import annotations

from lmx.config.component import Config, field
from lmx.config.types import Flag, Real, Text, Whole


class Xla(Config):
    """Options of XLA by their own names; those of other platforms than the mesh's are not looked at.

    They go with each program that is compiled (`compiler_options`), so that `lmx compile` and a run give the compiler
    the same; an option that it does not know is an error that names it, where one in XLA_FLAGS would end the process.
    """

    tpu: dict[str, Flag | Whole | Real | Text] = field("on TPU", effect="throughput")
    gpu: dict[str, Flag | Whole | Real | Text] = field("on NVIDIA GPUs", effect="throughput")
    cpu: dict[str, Flag | Whole | Real | Text] = field("on CPUs", effect="throughput")

    def options(self, platform: str) -> dict[str, bool | int | float | str] | None:
        """`compiler_options` for a platform (`device.platform`); None where there are none."""
        return dict(getattr(self, platform, {})) or None
