"""The root of `lmx verify resume`."""

from __future__ import annotations

from typing import Any

from lmx.config.component import Config, field
from lmx.config.types import Count, Positive, PositiveReal, Text
from lmx.run.config import TrainConfig


class VerifyRuns(Config):
    """Where runs are killed and resumed, and how closely they are compared."""

    devices: Positive = field("virtual CPU devices, shared among the processes", effect="bookkeeping")
    every: Positive = field("steps between checkpoints", unit="steps", effect="bookkeeping")
    kills_per_run: Positive = field("kills after which a run may come to its end", effect="bookkeeping")
    processes: dict[Text, Positive] = field(
        "processes of each place: `home` and `hosts` have the mesh of the configuration, `mesh` another",
        effect="bookkeeping",
    )
    mesh: Text = field("option of mesh of the place `mesh`", effect="bookkeeping")
    killed: dict[Text, Count] = field(
        "place -> share of the kills; runs killed and resumed there must equal the undisturbed one bit for bit",
        effect="bookkeeping",
    )
    moved: dict[Text, list[Text]] = field(
        "place where a run is killed -> places where it is resumed, there to equal the undisturbed one up to noise",
        effect="bookkeeping",
    )
    tolerance: PositiveReal = field(
        "largest relative difference of a moved run: of a number of its metrics, and of the 2-norm of each array",
        effect="bookkeeping",
    )
    timeout: Positive = field(
        "longest that one start of a run may take", unit="seconds", effect="bookkeeping"
    )


class VerifyResume(TrainConfig):
    """`lmx verify resume`: all that `lmx train` has, how often it is killed, and how it is compared."""

    steps: Positive = field(
        "length of each run, in place of the configuration's own", effect="bookkeeping", unit="steps"
    )
    kills: Positive = field("kills by SIGKILL", effect="bookkeeping")
    seed: Count = field("of the moments at which runs are killed", effect="bookkeeping")
    verify: VerifyRuns = field("where, and how closely", effect="bookkeeping")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        return [*super().problems(), *_problems(self)]


def _problems(config: VerifyResume) -> list[tuple[str, str, str]]:
    verify = config.verify
    found: list[tuple[str, str, Any]] = []
    used = {*verify.killed, *verify.moved, *(to for places in verify.moved.values() for to in places)}
    for place in sorted(used - set(verify.processes)):
        fix = f"+verify.processes.{place}=1"
        found.append(("verify.processes", f"the place {place!r} needs a number of processes", fix))
    for place, count in verify.processes.items():
        if verify.devices % count:
            message = f"{verify.devices} devices cannot be shared by the {count} processes of {place!r}"
            found.append(("verify.devices", message, f"verify.devices={-(-verify.devices // count) * count}"))
    if not sum(verify.killed.values()):
        found.append(("verify.killed", "needs a place with a share of the kills", "verify.killed.home=1"))
    if config.steps <= 2 * verify.every:
        message = f"{config.steps} steps leave no room for kills between checkpoints every {verify.every}"
        found.append(("steps", message, f"steps={8 * verify.every}"))
    return found
