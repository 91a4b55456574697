"""The root of `lmx verify faults`."""

from __future__ import annotations

from typing import Any

from lmx.config.component import Config, field
from lmx.config.types import Positive, Text
from lmx.run.config import TrainConfig


class VerifyStaged(Config):
    """Which faults are staged, and where."""

    processes: Positive = field("of each run", effect="bookkeeping")
    devices: Positive = field("virtual CPU devices, shared among the processes", effect="bookkeeping")
    every: Positive = field("steps between checkpoints", unit="steps", effect="bookkeeping")
    at: Positive = field("step of the faults (fault.step)", effect="bookkeeping")
    timeout: Positive = field(
        "longest that one start of a run may take: one that takes longer hangs",
        unit="seconds",
        effect="bookkeeping",
    )
    rows: list[Text] = field("rows of the table", effect="bookkeeping")
    overrides: dict[str, list[Text]] = field(
        "row -> its fault and what else is set, as on a command line", effect="bookkeeping"
    )


class VerifyFaults(TrainConfig):
    """`lmx verify faults`: all that `lmx train` has, and which faults are staged."""

    steps: Positive = field(
        "length of each run, in place of the configuration's own", effect="bookkeeping", unit="steps"
    )
    verify: VerifyStaged = field("which faults, and where", effect="bookkeeping")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        verify = self.verify
        found: list[tuple[str, str, Any]] = []
        known = ", ".join(verify.overrides)
        for name in verify.rows:
            if name not in verify.overrides:
                rest = ",".join(n for n in verify.rows if n in verify.overrides)
                message = f"there is no row {name!r}; there are {known}"
                found.append(("verify.rows", message, f"verify.rows=[{rest}]"))
        if verify.devices % verify.processes:
            message = f"{verify.devices} devices cannot be shared by {verify.processes} processes"
            found.append(("verify.devices", message, f"verify.devices={2 * verify.processes}"))
        if not verify.every < verify.at < self.steps:
            message = (
                f"needs a checkpoint before it (every {verify.every} steps) and steps after it ({self.steps})"
            )
            found.append(("verify.at", message, f"verify.at={verify.every + 1}"))
        return [*super().problems(), *found]
