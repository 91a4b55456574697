"""The root of `lmx verify mesh`."""

from __future__ import annotations

from typing import Any

from lmx.config.component import Config, field
from lmx.config.types import Positive, PositiveReal, Text
from lmx.run.config import TrainConfig


class Variant(Config):
    """A way to compute the same steps, other than by mesh alone."""

    mesh: Text | None = field("option of mesh; null: that of the reference", effect="bookkeeping")
    processes: Positive = field(
        "processes that share the devices, talking over sockets (gloo)", effect="bookkeeping"
    )
    overrides: list[Text] = field("what else is set, as on a command line", effect="bookkeeping")


class Verify(Config):
    """What is compared, and how closely."""

    devices: Positive = field("virtual CPU devices, shared among the processes", effect="bookkeeping")
    steps: Positive = field("training steps that are compared", unit="steps", effect="bookkeeping")
    tolerance: PositiveReal = field(
        "largest difference from the reference, as a multiple of what one rounding of each initial parameter changes "
        "in the same quantity at the same step (at least of one rounding of the quantity itself)",
        effect="bookkeeping",
    )
    meshes: dict[str, list[Text]] = field(
        "option of mesh -> what else is set with it: virtual devices are one slice, unless it is said otherwise",
        effect="bookkeeping",
    )
    rows: list[Text] = field("variants that are compared beside the meshes", effect="bookkeeping")
    variants: dict[str, Variant] = field("variants by name", effect="bookkeeping")
    timeout: Positive = field("longest that one row may take", unit="seconds", effect="bookkeeping")


class VerifyMesh(TrainConfig):
    """`lmx verify mesh`: all that `lmx train` has, which meshes are compared, and how."""

    meshes: list[Text] = field(
        "options of mesh that are compared, also as mesh=a,b,c; the first is the reference",
        effect="bookkeeping",
    )
    verify: Verify = field("what is compared, and how closely", effect="bookkeeping")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        return [*super().problems(), *_row_problems(self)]


def _row_problems(config: VerifyMesh) -> list[tuple[str, str, str]]:
    verify = config.verify
    found: list[tuple[str, str, Any]] = []
    if not config.meshes:
        found.append(("meshes", "needs at least one mesh, the reference", "mesh=single"))
    for name in verify.rows:
        if name not in verify.variants:
            rest = ",".join(n for n in verify.rows if n in verify.variants)
            message = f"there is no variant {name!r}; there are {', '.join(verify.variants)}"
            found.append(("verify.rows", message, f"verify.rows=[{rest}]"))
        elif verify.devices % verify.variants[name].processes:
            n = verify.variants[name].processes
            message = f"{verify.devices} devices cannot be shared by {n} processes"
            found.append(("verify.devices", message, f"verify.devices={-(-verify.devices // n) * n}"))
    return found
