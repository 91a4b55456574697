"""The fast tier beside programs that the TPU's compiler made: experiments/review_accuracy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lmx.config.compose import Composer
from lmx.config.errors import ConfigError
from lmx.run.consequences import consequences
from lmx.run.outline import outline
from lmx.run.review_config import Review
from lmx.run.target import target_of


class Row(NamedTuple):
    """One configuration: bytes of a device, predicted and compiled; `sent` over all mesh axes, None: not counted."""

    name: str
    state: int
    compiled_arguments: int
    peak: int
    compiled_peak: int
    sent: int
    compiled_sent: int | None

    @property
    def ratio(self) -> float:
        """Predicted over compiled peak."""
        return self.peak / self.compiled_peak


def rows(path: str | Path) -> list[Row]:
    """The configurations that the file lists, each predicted anew."""
    found = []
    made = Composer("review", Review, elsewhere=True)
    for entry in json.loads(Path(path).read_text(encoding="utf-8")):
        composed, problems = made.check(entry["overrides"])
        if composed is None:
            raise ConfigError(problems, "review")
        config = composed.config
        out = outline(config, target_of(config.topology, config.slices, config.mesh))
        told = consequences(out, prices=None, past=None)
        found.append(
            Row(
                entry["name"],
                told.memory.parts["state"],
                entry["argument_bytes"],
                told.memory.peak,
                entry["peak_bytes"],
                sum(told.traffic.values()),
                None if entry["collective_bytes"] is None else sum(entry["collective_bytes"].values()),
            )
        )
    return found


def markdown(found: Sequence[Row]) -> str:
    """The table."""
    lines = [
        "| configuration | state | compiled arguments | peak | compiled peak | ratio | sent | compiled sent | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        numbers = [row.state, row.compiled_arguments, row.peak, row.compiled_peak]
        cells = [f"{n / 1e9:.2f} GB" for n in numbers]
        counted = row.compiled_sent
        sent = [f"{row.sent / 1e9:.2f} GB", "-" if counted is None else f"{counted / 1e9:.2f} GB"]
        share = "-" if counted is None else f"{row.sent / counted:.2f}"
        lines.append(f"| {row.name} | {' | '.join(cells)} | {row.ratio:.3f} | {' | '.join(sent)} | {share} |")
    return "\n".join(lines)
